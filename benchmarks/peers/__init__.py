"""What Startlist is measured against: small programs of their own, each with every chance that its way has.

Each is run as a child process, reads the same sandbox into the same PostgreSQL, and prints what it did as JSON.
"""
