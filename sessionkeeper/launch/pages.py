"""The two pages, and the badge. Static: what they show they ask for, and load nothing else.

The token of a link (`?token=`) goes to the tab's own storage, out of the address and the history.
"""

from __future__ import annotations

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self';"
    " img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
label { display: block; margin: 1rem 0 .25rem; }
input, select, button { font: inherit; padding: .4rem .6rem; }
input { width: 100%; box-sizing: border-box; }
button { margin-top: 1.25rem; }
ol { display: flex; flex-wrap: wrap; gap: .5rem; list-style: none; padding: 0; }
li { padding: .1rem .7rem; border-radius: 1rem; border: 1px solid #8888; opacity: .55; }
li.now { opacity: 1; border-color: #1769aa; font-weight: 600; }
li.failed { opacity: 1; border-color: #b00020; color: #b00020; font-weight: 600; }
pre { background: #8881; padding: 1rem; max-height: 60vh; overflow: auto; white-space: pre-wrap; }
code { background: #8882; padding: 0 .3em; overflow-wrap: anywhere; }
"""

_ASKED = """
const asked = new URLSearchParams(location.search);
if (asked.has('token')) {
  sessionStorage.setItem('token', asked.get('token'));
  asked.delete('token');
  history.replaceState(null, '', location.pathname + (asked.size ? '?' + asked : ''));
}
const token = sessionStorage.getItem('token') || '';
"""


def _page(title: str, body: str, script: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><title>{title}</title><style>{_STYLE}</style></head>
<body>{body}<script>'use strict';{_ASKED}{script}</script></body>
</html>
"""


FRONT = _page(
    "Launch a repository",
    """
<h1>Launch a repository</h1>
<p>Its environment is built once; its session goes on when the machine it runs on goes.</p>
<form id="form">
<label for="provider">Where it is</label>
<select id="provider">
<option value="gh">GitHub</option><option value="gl">GitLab</option>
<option value="gist">Gist</option><option value="git">Git URL</option></select>
<label for="repository">Repository</label>
<input id="repository" required placeholder="user/repository, or a URL">
<label for="ref">Branch, tag or commit</label><input id="ref" placeholder="HEAD">
<label for="path">File to open</label><input id="path" placeholder="index.ipynb">
<button>launch</button>
</form>
<p>A link to it: <code id="link"></code></p>
""",
    """
const field = (name) => document.getElementById(name);
function address() {
  let provider = field('provider').value, text = field('repository').value.trim();
  const ref = field('ref').value.trim() || 'HEAD';
  const known = {gh: 'github.com', gl: 'gitlab.com', gist: 'gist.github.com'}[provider];
  text = known ? text.replace(new RegExp('^https?://' + known + '/'), '') : text;
  text = text.replace(/\\/+$/, '').replace(/[.]git$/, '');
  const whole = provider === 'gl' || provider === 'git';
  const spec = whole ? encodeURIComponent(text) : text.split('/').map(encodeURIComponent).join('/');
  const path = field('path').value.trim();
  const open = path ? '?labpath=' + encodeURIComponent(path) : '';
  return 'v2/' + provider + '/' + spec + '/' + ref.split('/').map(encodeURIComponent).join('/')
    + open;
}
const show = () => {
  field('link').textContent = new URL(address(), location.href).href;
};
field('form').addEventListener('input', show);
field('form').addEventListener('submit', (event) => {
  event.preventDefault();
  location.assign(address());
});
show();
""",
)

LOADING = _page(
    "Launching",
    """
<h1 id="what">Launching</h1>
<ol id="phases"></ol>
<p id="words" role="status"></p>
<pre id="log" aria-label="build log"></pre>
<p><a id="again" href="" hidden>Try again</a></p>
""",
    """
const phases = ['waiting', 'fetching', 'building', 'pushing', 'built', 'launching', 'ready'];
const [, before, spec] = location.pathname.match(/^(.*)\\/v2\\/(.*)$/);
const list = document.getElementById('phases'), log = document.getElementById('log');
const words = document.getElementById('words');
for (const name of phases) {
  const item = document.createElement('li');
  item.textContent = name;
  list.append(item);
}
document.getElementById('what').textContent = 'Launching ' + decodeURIComponent(spec);
function now(phase) {
  for (const item of list.children) {
    item.className = item.textContent === phase ? 'now' : '';
  }
}
function failed(text) {
  const at = list.querySelector('.now') || list.firstChild;
  at.className = 'failed';
  words.textContent = text;
  document.getElementById('again').hidden = false;
}
function target(said) {
  const path = asked.get('labpath') || asked.get('filepath');
  const inLab = path ? 'lab/tree/' + path.split('/').map(encodeURIComponent).join('/') : 'lab';
  const url = new URL((asked.get('urlpath') || inLab).replace(/^\\/+/, ''), said.url);
  if (!url.href.startsWith(said.url)) return said.url;
  url.searchParams.set('token', said.token);
  return url.href;
}
const query = token ? '?token=' + encodeURIComponent(token) : '';
const source = new EventSource(before + '/build/' + spec + query);
source.onmessage = (event) => {
  const said = JSON.parse(event.data);
  log.textContent += said.message;
  log.scrollTop = log.scrollHeight;
  if (said.phase === 'failed') {
    source.close();
    failed(said.message.trim());
    return;
  }
  now(said.phase);
  words.textContent = said.message.trim().split('\\n').pop();
  if (said.phase === 'ready') {
    source.close();
    location.replace(target(said));
  }
};
source.onerror = () => {
  source.close();
  failed(token ? 'The connection ended.' : 'The connection ended, or a token is needed: open the'
    + ' page with ?token=… at its end, as `sessionkeeper launch --link` prints it.');
};
""",
)

BADGE = """<svg xmlns="http://www.w3.org/2000/svg" width="110" height="20" role="img" \
aria-label="launch: session">
<rect width="110" height="20" rx="3" fill="#555"/>
<path d="M50 0h57a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H50z" fill="#1769aa"/>
<g fill="#fff" font-family="Verdana,Geneva,sans-serif" font-size="11" text-anchor="middle">
<text x="25" y="14">launch</text><text x="80" y="14">session</text></g>
</svg>
"""
