"""What is said to a client in our own name, and how it is known again in the history of the next request."""

NOTICE_MARK = "[luthien]"
"""What our words in an answer begin with."""


def notice(text: str, transaction_id: str) -> str:
    """`text` with the mark before it and the transaction behind it, each once."""
    marked = text if is_notice(text) else f"{NOTICE_MARK} {text}"
    return marked if transaction_id in marked else f"{marked} (transaction {transaction_id})"


def one_line(text: str, length: int) -> str:
    """The first characters of a text of the model's, as a notice may quote them: what it quotes cannot end
    its line and go on as if it were ours."""
    return "".join(character if character.isprintable() else " " for character in text[:length])


def too_large_notice(transaction_id: str) -> str:
    """What a client is told where policies will not read all that a request or an answer brings."""
    return f"{NOTICE_MARK} This was stopped because it is too large to judge (transaction {transaction_id})."


def parted(text: str) -> list[tuple[str, bool]]:
    """`text` in parts that, joined by blank lines, are it again; whether each is our own."""
    parts: list[tuple[str, bool]] = []
    for paragraph in text.split("\n\n"):
        is_ours = is_notice(paragraph)
        if parts and not is_ours and not parts[-1][1]:
            parts[-1] = f"{parts[-1][0]}\n\n{paragraph}", False
        else:
            parts.append((paragraph, is_ours))
    return parts


def is_notice(text: str) -> bool:
    """Whether `text` says it is ours. A model can write the mark too, so this may spare a text of
    the history from being judged again, but never an answer."""
    return text.lstrip().startswith(NOTICE_MARK)
