"""Values in the process's own memory, which walpurge's messages empty."""

import threading
import time

import redis

# A message that never came, of a connection that died in silence, costs no more than this.
AGE_MAX_SECONDS = 60


class Local:
    def __init__(self, cache, load):
        self.cache, self.load = cache, load
        self.lock = threading.Lock()
        self.values = {}
        self.is_told = False
        # Another one after each message, and after each break.
        self.epoch = 0

    def get(self, key):
        with self.lock:
            value, until = self.values.get(key, (None, 0))
            epoch = self.epoch
        if time.monotonic() < until:
            return value
        value = self.load(key)
        with self.lock:
            # What was forgotten while it was being read may be older than the message.
            if self.is_told and epoch == self.epoch:
                self.values[key] = (value, time.monotonic() + AGE_MAX_SECONDS)
        return value

    def forget(self, message):
        with self.lock:
            self.epoch += 1
            if "*" in message:
                self.values.clear()
            else:
                self.values.pop(message, None)

    def forget_all(self, is_told):
        with self.lock:
            self.epoch += 1
            self.is_told = is_told
            self.values.clear()

    def listen(self, channel):
        """For a thread of its own: never ends."""
        while True:
            try:
                with self.cache.pubsub() as messages:
                    messages.subscribe(channel)
                    for message in messages.listen():
                        # redis-py connects and subscribes again by itself, and says so here.
                        if message["type"] == "subscribe":
                            self.forget_all(is_told=True)
                        elif message["type"] == "message":
                            self.forget(message["data"])
            except redis.RedisError:
                self.forget_all(is_told=False)
                time.sleep(1)
