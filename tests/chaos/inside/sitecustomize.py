"""Put into the services of a run by PYTHONPATH: a signal holds up the thread of the event loop, as a slip in its code would."""

import select
import signal

signal.signal(signal.SIGUSR1, lambda _number, _frame: select.select([], [], [], 3))  # libfaketime refuses `time.sleep`
