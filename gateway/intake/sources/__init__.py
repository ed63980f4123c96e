"""Sources of call logs: the ways in, each with its routes and with what parses its bodies.

A source gives `Route`s. One whose requests carry one call log each needs no more than
`Route(name, method, path, posts.respond)`: it reads the body within its limits, parses it, accepts the call log and
answers. Webhooks, spans and heartbeats come by sources in `gateway.webhooks`, `gateway.otlp` and `gateway.heartbeats`.
"""
