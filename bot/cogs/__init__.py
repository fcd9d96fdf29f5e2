"""The commands, one file per topic. Each cog gets what it needs through `__init__`; `bot.app` puts them together."""
