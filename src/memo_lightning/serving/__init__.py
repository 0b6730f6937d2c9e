"""A policy as a service: sessions with a memory each, over HTTP and WebSocket."""
