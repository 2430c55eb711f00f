"""A TCP proxy that makes a server seem far away, or gone."""

import asyncio
import threading


class SlowProxy:
    """Listens on 127.0.0.1:`port`. What clients send arrives `delay` seconds later, and at most `rate`
    bytes of it a second; while `held` is true nothing of it arrives at all."""

    def __init__(self, target_port, delay=0.0, rate=None):
        self.target_port, self.delay, self.rate, self.held = target_port, delay, rate, False
        self.port = None
        self._loop = asyncio.new_event_loop()
        self._tasks = set()
        self._free = 0.0  # when the line has sent what it was given
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 22)
        )
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            there_reader, there_writer = await asyncio.open_connection(
                "127.0.0.1", self.target_port, limit=1 << 22
            )
        except OSError:
            writer.close()
            return
        back = asyncio.create_task(self._copy(there_reader, writer))
        self._tasks.add(back)
        # A line: what comes in meanwhile is not delayed once more.
        line = asyncio.Queue(64 if self.rate else 0)
        sender = asyncio.create_task(self._send(line, there_writer))
        self._tasks.add(sender)
        try:
            while data := await reader.read(1 << 16):
                await line.put((self._loop.time() + self.delay, data))
        except OSError:
            pass
        await line.put((0, b""))
        await asyncio.gather(back, sender, return_exceptions=True)

    async def _send(self, line, writer):
        while True:
            due, data = await line.get()
            if not data:
                writer.close()
                return
            await asyncio.sleep(due - self._loop.time())
            while self.held:
                await asyncio.sleep(0.005)
            if self.rate:
                self._free = max(self._free, self._loop.time()) + len(data) / self.rate
                await asyncio.sleep(self._free - self._loop.time())
            writer.write(data)
            await writer.drain()

    @staticmethod
    async def _copy(reader, writer):
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    def stop(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
