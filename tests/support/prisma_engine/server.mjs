// Serves Prisma's query engine the way its executable does: HTTP on the loopback port given with -p, for the schema
// that PRISMA_DML_PATH names. The engine is the WebAssembly one of @prisma/client, over the `pg` driver.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { text } from 'node:stream/consumers';
import { parseArgs } from 'node:util';

import { PrismaPg } from '@prisma/adapter-pg';
import wasm from '@prisma/client/runtime/query_engine_bg.postgresql.js';
import { bindAdapter } from '@prisma/driver-adapter-utils';
import pg from 'pg';

import { plain, readModels, rowObjects, translate } from './queries.mjs';

const { TEXT } = pg.types.builtins;
const TEXT_ARRAY = 1009;
// PostgreSQL's char, name, unknown, regclass, regtype, void and name[], which the adapter has no type for.
const READ_AS_TEXT = new Map([18, 19, 705, 2205, 2206, 2278].map((oid) => [oid, TEXT]));
READ_AS_TEXT.set(1003, TEXT_ARRAY);

// Prisma's error codes.
const FAILED_IN_DRIVER = 'P2036';
const NOT_REACHED = 'P1001';

const NO_TRACE = '{}';

// Clients before 0.14 have a key of this name in the rows of raw queries.
const client = new URL('client/prisma/_raw_query.py', import.meta.url);
const readsRowObjects = readFileSync(client, 'utf8').includes('prisma__value');

class Adapter extends PrismaPg {
  async performIO(query) {
    return readable(await super.performIO(query));
  }

  async startTransaction() {
    const started = await super.startTransaction();
    const transaction = started.value;
    const performIO = transaction.performIO.bind(transaction);
    transaction.performIO = async (query) => readable(await performIO(query));
    return started;
  }
}

function readable(result) {
  for (const field of (result.ok && result.value.fields) || []) {
    field.dataTypeID = READ_AS_TEXT.get(field.dataTypeID) ?? field.dataTypeID;
  }
  return result;
}

function loadEngine() {
  const file = fileURLToPath(import.meta.resolve('@prisma/client/runtime/query_engine_bg.postgresql.wasm'));
  const module = new WebAssembly.Module(readFileSync(file));
  wasm.__wbg_set_wasm(new WebAssembly.Instance(module, { './query_engine_bg.js': wasm }).exports);
  return wasm.QueryEngine;
}

function databaseUrl() {
  const [override] = JSON.parse(process.env.OVERWRITE_DATASOURCES ?? '[]');
  return override?.url ?? process.env.DATABASE_URL;
}

async function startEngine(schema, adapter) {
  const QueryEngine = loadEngine();
  const settings = {
    datamodel: schema.replace(/(generator\s+\w+\s*\{)[^}]*\}/, '$1\nprovider = "js"\npreviewFeatures = ["driverAdapters"]\n}'),
    logLevel: 'error',
    logQueries: false,
    ignoreEnvVarErrors: true,
    datasourceOverrides: {},
    env: process.env,
    engineProtocol: 'json',
    enableTracing: false,
  };
  const engine = new QueryEngine(settings, (entry) => console.error(entry), adapter);
  await engine.connect(NO_TRACE);
  return engine;
}

class Server {
  constructor(engine, adapter, models) {
    this.engine = engine;
    this.adapter = adapter;
    this.models = models;
  }

  async answer({ url, headers }, body) {
    if (url === '/status') return { status: 'ok' };
    if (url === '/transaction/start') return this.checked(await this.engine.startTransaction(body, NO_TRACE));
    const [, id, end] = url.match(/^\/transaction\/([^/]+)\/(commit|rollback)$/) ?? [];
    if (end) return this.checked(await this.engine[`${end}Transaction`](id, NO_TRACE));
    if (url !== '/') throw new Error(`not served here: ${url}`);
    const request = JSON.parse(body);
    const transactionId = headers['x-transaction-id'];
    return request.batch ? this.batch(request, transactionId) : this.one(request.query, transactionId);
  }

  async one(document, transactionId) {
    const translated = translate(document, this.models);
    return named(await this.ask(translated.query, transactionId), translated);
  }

  async batch({ batch, transaction }, transactionId) {
    const translated = batch.map(({ query }) => translate(query, this.models));
    const request = { batch: translated.map(({ query }) => query), transaction: transaction ? {} : undefined };
    const answer = await this.ask(request, transactionId);
    if (answer.errors) return answer;
    return { batchResult: answer.batchResult.map((result, index) => named(result, translated[index])) };
  }

  async ask(request, transactionId) {
    return this.checked(await this.engine.query(JSON.stringify(request), NO_TRACE, transactionId));
  }

  /** An answer with its errors in the form that queries have them in, whatever was asked. */
  checked(text) {
    const answer = JSON.parse(text);
    const errors = answer.error_code ? [{ error: answer.message, user_facing_error: answer }] : answer.errors;
    return errors ? { errors: errors.map((error) => this.explained(error)) } : answer;
  }

  /** The engine has but a number for what failed in the driver. Its executable says that it reaches no database. */
  explained(error) {
    const { error_code: code, meta } = error.user_facing_error;
    if (code !== FAILED_IN_DRIVER) return error;
    const message = `Can't reach database server: ${this.adapter.errorRegistry.consumeError(meta.id)?.error}`;
    return { error: message, user_facing_error: { is_panic: false, error_code: NOT_REACHED, message, meta: {} } };
  }
}

function named(answer, { name, isRaw }) {
  if (answer.errors) return answer;
  const [result] = Object.values(answer.data);
  if (!isRaw) return { data: { [name]: plain(result) } };
  return { data: { [name]: readsRowObjects && result.columns ? rowObjects(result) : result } };
}

async function respond(server, request, response) {
  const body = await text(request);
  try {
    const answer = await server.answer(request, body);
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
  } catch (error) {
    console.error('the query engine failed:', error, body);
    response.writeHead(500).end(String(error));
  }
}

async function main() {
  const { values } = parseArgs({ options: { port: { type: 'string', short: 'p' }, version: { type: 'boolean' } }, strict: false });
  if (values.version) return console.log('query-engine');
  const schema = readFileSync(process.env.PRISMA_DML_PATH, 'utf8');
  const pool = new pg.Pool({ connectionString: databaseUrl() });
  pool.on('error', (error) => console.error('a database connection was lost:', error.message));
  const adapter = bindAdapter(new Adapter(pool));
  const server = new Server(await startEngine(schema, adapter), adapter, readModels(schema));
  createServer((request, response) => respond(server, request, response)).listen(Number(values.port), '127.0.0.1');
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit());
}

await main();
