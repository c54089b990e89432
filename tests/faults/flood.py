"""Fill a bucket from a process of its own: `python flood.py URL BUCKET NUMBER SIZE KEYS`."""

import asyncio
import sys

import nats


async def main(url: str, bucket: str, number: int, size: int, keys: int) -> None:
    client = await nats.connect(url)
    value = b"x" * size
    for at in range(number):
        subject = f"$KV.{bucket}.k.{at % keys}"
        # Every so often one is acknowledged: the server drops what it cannot keep up with.
        if at % 500 == 499 or at == number - 1:
            await client.request(subject, value, timeout=60)
        else:
            await client.publish(subject, value)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
