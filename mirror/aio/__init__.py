"""What asyncio lacks: supervised tasks, single flight, slots."""
