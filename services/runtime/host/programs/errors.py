"""Why programs cannot be compiled or loaded."""

from __future__ import annotations


class ProgramsError(Exception):
    """`reason` is a word for programs, `detail` the compiler's or the kernel's text, `advice` says what to do."""

    def __init__(self, reason: str, detail: str, advice: str) -> None:
        self.reason = reason
        self.detail = detail
        self.advice = advice
        last = detail.strip().splitlines()[-1] if detail.strip() else ""
        super().__init__(f"{reason.replace('_', ' ')}: {last} ({advice})" if last else f"{reason.replace('_', ' ')} ({advice})")
