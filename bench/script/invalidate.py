"""What people write instead: psycopg2, redis-py, and a loop.

Arguments: the server's connection string, its slot, Redis' port.
"""
import json
import sys

import psycopg2
import psycopg2.extras
import redis

dsn, slot, port = sys.argv[1:]
cache = redis.Redis(port=int(port))
connection = psycopg2.connect(dsn, connection_factory=psycopg2.extras.LogicalReplicationConnection)
cursor = connection.cursor()
options = {"format-version": "2", "include-lsn": "true", "include-transaction": "true",
           "add-tables": "public.items,public.last"}
cursor.start_replication(slot_name=slot, decode=True, options=options)


def consume(message):
    change = json.loads(message.payload)
    if change["action"] in "IUD":
        columns = change.get("columns") or change.get("identity")
        row = {column["name"]: column["value"] for column in columns}
        if change["table"] == "items":
            cache.delete(f"item:{row['id']}")
        else:
            cache.delete(f"bench:last:{row['id']}")
    elif change["action"] == "C":
        message.cursor.send_feedback(flush_lsn=message.data_start)


print("following", flush=True)
cursor.consume_stream(consume)
