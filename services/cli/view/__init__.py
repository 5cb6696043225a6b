"""`wirespan view`: the page. Its server says what `tap`, `explain` and `status` say; browsers run what `web/` is built into."""
