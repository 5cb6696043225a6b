"""Process plumbing that every service shares: settings, logs, lifecycle, bus, health, telemetry. No flow knowledge."""
