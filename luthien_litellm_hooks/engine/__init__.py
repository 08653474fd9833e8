"""The engine: runs policies over a request and over the response to it.

A chunk of a response takes this way::

    executor      decodes the provider's items, and records them
      pipeline    one stage after the other, each with a worker task of its own
        stage     one policy: assembles blocks, calls its hooks in order     (parallel, votes: several, by vote)
          hook_call     one hook: deadline, failure, timing
          hold_buffer   holds events until a hook releases or replaces them
        egress_queue    events for the next stage or for the client
      sequencer   makes their order legal for any client
        block_order     one class for each kind of wire
    executor      encodes the client's items, and records them

`composition` selects the policies; `request_hooks` runs them over a request.
"""
