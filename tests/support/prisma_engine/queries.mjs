// Between the two dialects of Prisma's engine: the Python client writes its queries in GraphQL, and the engine
// that npm ships takes them as JSON, with values that JSON has no type for marked by "$type".

import { Kind, parse } from 'graphql';

const MODEL_ACTION =
  /^(findUnique|findFirst|findMany|createOne|createMany|updateOne|updateMany|upsertOne|deleteOne|deleteMany|aggregate|groupBy)(\w+?)(OrThrow)?$/;
const RAW_ACTIONS = ['queryRaw', 'executeRaw'];
// What filters on a Json field take as plain text.
const JSON_TEXT_FILTERS = ['path', 'string_contains', 'string_starts_with', 'string_ends_with'];

/** Each model's fields with the names of their types, from the text of a Prisma schema. */
export function readModels(schema) {
  const models = new Map();
  let fields = null;
  for (const line of schema.split('\n')) {
    const [, model] = line.match(/^model\s+(\w+)/) ?? [];
    const [, field, type] = line.match(/^\s+(\w+)\s+(\w+)/) ?? [];
    if (model) models.set(model, (fields = new Map()));
    else if (line.startsWith('}')) fields = null;
    else if (field) fields?.set(field, type);
  }
  return models;
}

/** The engine's form of a GraphQL document with one query, and the name its result is to have. */
export function translate(document, models) {
  const [root] = parse(document, { noLocation: true }).definitions[0].selectionSet.selections;
  const { action, modelName } = actionOf(root.name.value, models);
  const query = {
    arguments: argumentsOf(root, modelName, models),
    selection: selectionOf(root, modelName, models),
  };
  return { name: (root.alias ?? root.name).value, isRaw: !modelName, query: { modelName, action, query } };
}

/** A result as the Python client reads it: without marks, and Json as text. */
export function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== 'object') return value;
  if ('$type' in value) return value.$type === 'BigInt' ? Number(value.value) : value.value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, plain(member)]));
}

/** The rows of a raw query as clients before 0.14 read them: each an object, each value with its type. */
export function rowObjects({ columns, types, rows }) {
  return rows.map((row) => Object.fromEntries(row.map((value, index) => [columns[index], typed(value, types[index])])));
}

function typed(value, type) {
  const [, memberType] = type.match(/^(.+)-array$/) ?? [];
  if (value === null) return { prisma__type: 'null', prisma__value: null };
  if (memberType) return { prisma__type: 'array', prisma__value: value.map((member) => typed(member, memberType)) };
  return { prisma__type: type, prisma__value: value };
}

function actionOf(field, models) {
  if (RAW_ACTIONS.includes(field)) return { action: field };
  const [, action, modelName, orThrow = ''] = field.match(MODEL_ACTION) ?? [];
  if (!models.has(modelName)) throw new Error(`not a query of this schema: ${field}`);
  return { action: action + orThrow, modelName };
}

function argumentsOf(field, type, models) {
  return Object.fromEntries((field.arguments ?? []).map(({ name, value }) => [name.value, valueOf(value, type, models)]));
}

function selectionOf(field, type, models) {
  const selections = field.selectionSet?.selections ?? [];
  return Object.fromEntries(
    selections.map((member) => {
      if (!member.selectionSet) return [member.name.value, true];
      const memberType = typeOf(member.name.value, type, models);
      const selection = selectionOf(member, memberType, models);
      return [member.name.value, { arguments: argumentsOf(member, memberType, models), selection }];
    }),
  );
}

function valueOf(node, type, models) {
  switch (node.kind) {
    case Kind.NULL:
      return null;
    case Kind.INT:
      return Number.isSafeInteger(Number(node.value)) ? Number(node.value) : { $type: 'BigInt', value: node.value };
    case Kind.FLOAT:
      return Number(node.value);
    case Kind.STRING:
      return type === 'Json' ? { $type: 'Json', value: node.value } : node.value;
    case Kind.LIST:
      return node.values.map((member) => valueOf(member, type, models));
    case Kind.OBJECT:
      return Object.fromEntries(
        node.fields.map(({ name, value }) => [name.value, valueOf(value, typeOf(name.value, type, models), models)]),
      );
    default:
      return node.value;
  }
}

/** The type that `name` leads to from a value of `type`: a field has its own, an operator such as `create` or `not` keeps it. */
function typeOf(name, type, models) {
  if (type === 'Json' && JSON_TEXT_FILTERS.includes(name)) return 'String';
  return models.get(type)?.get(name) ?? type;
}
