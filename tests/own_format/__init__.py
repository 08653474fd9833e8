"""A wire format of a test's own: each unit is one line of JSON.

A response is lines such as `{"say": "Hello"}`, `{"call": 0, "id": "c", "name": "read", "with": "{}"}` and
`{"done": "end"}`; a full one is an object with a list of them.
"""
