"""The numpy mirror of `struct turn` is the one the C compiler lays out."""

from __future__ import annotations

from pathlib import Path

from services.capture.meeting.turns import MEMBERS, TURN, TurnFlag
from tests.support.packets.c_layout import printed_by_c

DECLARATIONS = """
#include "replay/exchanges/exchanges.h"
#include "engine/exchanges/turn.h"
"""


def test_every_member_lies_where_the_compiler_puts_it(tmp_path: Path) -> None:
    """Offsets, sizes, flags, and the size of a turn."""
    lines = ['printf("size %zu\\n", sizeof(struct turn));']
    expected = {"size": TURN.itemsize}
    for name, (offset, _) in MEMBERS.items():
        lines.append(f'printf("{name}.offset %zu\\n", offsetof(struct turn, {name}));')
        lines.append(f'printf("{name}.size %zu\\n", sizeof(((struct turn *)0)->{name}));')
        expected |= {f"{name}.offset": offset, f"{name}.size": TURN[name].itemsize}
    for flag in TurnFlag:
        lines.append(f'printf("TURN_{flag.name} %d\\n", (int)TURN_{flag.name});')
        expected[f"TURN_{flag.name}"] = int(flag)
    assert printed_by_c(DECLARATIONS, lines, folder=tmp_path) == expected
