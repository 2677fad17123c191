"""Word that this node will go: where it comes from, and what counts.

Each place it can come from is a `NoticeSource` (`notice.py`): clouds' metadata services (`aws`,
`google`, `azure`), `kubernetes`, `logind` (a computer at home that is switched off or goes to
sleep), the wishes of a volunteer machine's `owner`, a plain signal (`signals`). `together` makes
one of several; `choice` chooses, by what an operator says or by what this machine is (`detect`).
"""
