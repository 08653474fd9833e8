"""Record of a transaction: decisions, the request and the response as they came and as they left."""
