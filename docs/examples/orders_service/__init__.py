"""Orders are created, paid and shipped; each change goes into an audit trail, each payment is billed once."""
