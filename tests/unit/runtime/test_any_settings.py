"""Whatever stands in a service's variables, they are settings or faults that are said: never another exception."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from services.capture.settings import CaptureSettings
from services.enricher.settings import EnricherSettings
from services.exporter.settings import ExporterSettings
from services.runtime.settings import SettingsError, describe, load

_SERVICES = {"capture": CaptureSettings, "enricher": EnricherSettings, "exporter": ExporterSettings}
_values = (
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
    | st.integers(-(10**30), 10**30).map(str)
    | st.floats().map(str)
    | st.sampled_from(
        ["true", "no", ",", "a,b", "1,2", "nats://[::1", "http://h:99999", "10.0.0.0/33", "x=10.0.0.0/8", "1e400", "0x10"]
    )
)


@settings(max_examples=200)
@given(st.data())
def test_any_values_of_any_variables(data: st.DataObject) -> None:
    """One message with every fault, which names the variable."""
    service = data.draw(st.sampled_from(sorted(_SERVICES)))
    prefix = f"WIRESPAN_{service.upper()}_"
    names = [variable.name for variable in describe(_SERVICES[service], prefix)]
    environ = data.draw(st.dictionaries(st.sampled_from(names), _values, min_size=1, max_size=4))
    with contextlib.suppress(SettingsError):
        load(_SERVICES[service], prefix=prefix, environ=environ)
