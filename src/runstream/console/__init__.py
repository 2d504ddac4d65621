"""Pages for people: the playground, and the JavaScript client that it is built on."""
