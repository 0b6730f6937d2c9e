"""A policy as a service: sessions, each with its own memory, over HTTP and WebSocket."""
