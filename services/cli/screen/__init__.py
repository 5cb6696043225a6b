"""The screen of `wirespan up`: who talks to whom, ordered, searched and looked into by keys. Loaded where a terminal has it."""
