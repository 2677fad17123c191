"""What variables a Python kernel has: names, types, sizes. It is asked while it is idle; nothing of
the user's runs for it but ``len`` and attributes of what the kernel's own libraries made.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from gateway.errors import GatewayError
from sessionkeeper.agent.hosted import HostedKernel

SECONDS = 5.0
LONGEST = 4 << 20
"""Characters of an answer: it comes from user code."""

_SOURCE = """
import json, sys
def listing(shell):
    hidden, found = set(shell.user_ns_hidden), []
    names = sorted(n for n in shell.user_ns if not n.startswith('_') and n not in hidden)
    for name in names[:2000]:
        value = shell.user_ns[name]
        kind = type(value)
        one = {'name': name, 'type': f'{kind.__module__}.{kind.__qualname__}'}
        if kind in (bool, int, float, complex, str, bytes, type(None)):
            shown = repr(value[:200] if kind in (str, bytes) else value)
            one['value'] = shown[:200]
        if kind in (str, bytes, bytearray, list, tuple, dict, set, frozenset):
            one['length'] = len(value)
        if kind.__module__.partition('.')[0] in ('numpy', 'pandas', 'torch'):
            shape = getattr(value, 'shape', None)
            if isinstance(shape, tuple):
                one['shape'] = [int(n) for n in shape]
            size = getattr(value, 'nbytes', None)
            if isinstance(size, int):
                one['bytes'] = size
        found.append(one)
    return json.dumps({'variables': found, 'more': max(0, len(names) - 2000)})
"""
_EXPRESSION = (
    f"(lambda scope: (exec({_SOURCE!r}, scope), scope['listing'](get_ipython()))[1])({{}})"
)


async def variables(kernel: HostedKernel) -> dict[str, Any]:
    """Return ``{"variables": [{"name", "type", ...}], "more": so many others}``, or ``{"why"}`` it
    cannot tell.
    """
    if kernel.relay is None or not kernel.running:
        return {"why": "it does not run"}
    if kernel.launch.get("language") not in ("python", ""):
        return {"why": f"it is a kernel of {kernel.launch['language']}"}
    try:
        reply = await kernel.relay.call(
            "execute",
            code="",
            user_expressions={"found": _EXPRESSION},
            timeout=SECONDS,
            wait=SECONDS + 1,
        )
        text = reply["user_expressions"]["found"]["data"]["text/plain"]
        if len(text) > LONGEST:
            return {"why": "there are too many"}
        found = json.loads(ast.literal_eval(text))
        return {"variables": list(found["variables"]), "more": int(found["more"])}
    except GatewayError as error:
        return {"why": str(error)}
    except (KeyError, TypeError, ValueError, SyntaxError):
        return {"why": "it did not answer as a Python kernel does"}
