"""What a process holds as a secret is in no text of its."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.runtime.errors import SettingsError
from services.runtime.privacy.redaction import SHORTEST, hide, hide_userinfo, redacted
from services.runtime.settings import NatsSettings, load

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("secret", ['pass"wörd/1', "Bearer abcdef-123", "two\nlines-of-it", "back\\slash'quote"])
def test_a_secret_is_found_in_each_of_its_forms(secret: str) -> None:
    """As it is, in other cases of letters, quoted by JSON or Python, in a URL; and a scheme's value without the scheme."""
    hide(secret)
    value = secret.rpartition(" ")[2]
    for text in (secret, secret.upper(), f"{secret!r}", f"{secret.encode()!r}" if secret.isascii() else secret, value):
        assert value not in redacted(f"before {text} after")
        assert redacted(f"before {text} after").startswith("before ")


def test_a_secret_that_begins_with_another_is_hidden_to_its_end() -> None:
    """And one that begins within another: whichever is found first, nothing is left of either."""
    hide("Bearer overlap", "overlap-and-more", "and-more-of-it")
    assert redacted("in: overlap-and-more-of-it, Bearer overlap-and-more; overlap.") == "in: ***, ***; ***."


def test_what_is_too_short_to_be_told_from_words_stays() -> None:
    """A password of a few letters would take them out of everything."""
    hide("a" * (SHORTEST - 1))
    assert redacted("a" * (SHORTEST - 1)) == "a" * (SHORTEST - 1)


@pytest.mark.parametrize(
    "url", ["https://who:url-pass%2Fword@host:1/x", "who:url-pass%2Fword@host", "nats://url-pass%2Fword@h"]
)
def test_the_password_of_a_url_is_hidden(url: str) -> None:
    """Also as it is without its percent signs, which is how a server sees it."""
    hide_userinfo(url)
    assert redacted(url).endswith(url.rpartition("@")[2])
    assert "url-pass" not in redacted(url)
    assert "url-pass" not in redacted("url-pass/word")


@pytest.mark.parametrize("url", ["nats://u:pa/ss-word@:4222", "u:pa/ss-word@:4222", "nats://ok:4222,nats://u:pa/ss-word@:x"])
def test_a_setting_that_is_wrong_is_said_without_its_secret(url: str) -> None:
    """Whatever the password has in it."""
    with pytest.raises(SettingsError) as raised:
        load(NatsSettings, prefix="WIRESPAN_NATS_", environ={"WIRESPAN_NATS_URL": url})
    assert "ss-word" not in str(raised.value)


def test_a_traceback_that_nobody_catches_has_none_of_it() -> None:
    """On standard error, of the main thread and of others."""
    program = (
        "import threading\n"
        "from services.runtime.privacy.redaction import guard_standard_error, hide\n"
        "guard_standard_error()\n"
        "hide('the-hidden-one')\n"
        "def fail(): raise ValueError(f'no good: {hidden}')\n"
        "hidden = 'the-' + 'hidden-one'\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "fail()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.count("no good: ***") == 2
    assert "the-hidden-one" not in done.stderr
