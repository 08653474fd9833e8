"""Notices: texts to a client in our own name, recognised again in the history of its next request."""

NOTICE_MARK = "[luthien]"
"""Mark at the beginning of a notice."""


def notice(text: str, transaction_id: str) -> str:
    """Returns `text` with the mark before it and the transaction after it, each once."""
    marked = text if is_notice(text) else f"{NOTICE_MARK} {text}"
    return marked if transaction_id in marked else f"{marked} (transaction {transaction_id})"


def one_line(text: str, length: int) -> str:
    """Returns the first characters of a model's text for quoting in a notice.

    Without line breaks, the quote cannot end its line and continue as if it were ours.
    """
    return "".join(character if character.isprintable() else " " for character in text[:length])


def too_large_notice(transaction_id: str) -> str:
    """Returns the notice about a request or a response too large for policies to read."""
    return f"{NOTICE_MARK} This was stopped because it is too large to judge (transaction {transaction_id})."


def parted(text: str) -> list[tuple[str, bool]]:
    """Splits `text` into paragraphs and marks our notices. Joining with blank lines restores it."""
    parts: list[tuple[str, bool]] = []
    for paragraph in text.split("\n\n"):
        is_ours = is_notice(paragraph)
        if parts and not is_ours and not parts[-1][1]:
            parts[-1] = f"{parts[-1][0]}\n\n{paragraph}", False
        else:
            parts.append((paragraph, is_ours))
    return parts


def is_notice(text: str) -> bool:
    """Tells if `text` begins with our mark. A model can write the mark too: use this to spare texts of the history from
    another check, never a response."""
    return text.lstrip().startswith(NOTICE_MARK)
