// The status of the session over the server's WebSocket, connecting again for ever.

const RETRY_MS = [200, 500, 1000, 2000];

/** The server says something each second or two. */
const SILENT_SECONDS = 4;

/**
 * Whether this Jupyter server has a session to tell of. The extension may be installed where
 * JupyterLab runs without a session; there it must not be in the way.
 */
export async function hasSession(settings) {
  const url = new URL('sessionkeeper/status', withSlash(settings.baseUrl));
  const headers = settings.token ? { Authorization: `token ${settings.token}` } : {};
  try {
    return (await fetch(url, { headers })).status !== 404;
  } catch {
    return true; // away for now
  }
}

function withSlash(url) {
  return url.endsWith('/') ? url : `${url}/`;
}

/** Says `lost` and `returned`; `detail.silent`: it said nothing, though its socket was open. */
export const server = Object.assign(new EventTarget(), { isAway: false });

/** Calls `listener(status)` with each status; `state` is `server-away` while there is no server. */
export class Feed {
  constructor(settings, listener) {
    this._settings = settings;
    this._listener = listener;
    this._failures = 0;
    this._wasSilent = false;
    this._last = {};
    this._connect();
    window.addEventListener('online', () => this._again(0));
    // Counted, and not measured: a computer that slept was not there to hear.
    window.setInterval(() => this._listen(), 1000);
  }

  _url() {
    const { wsUrl, token, appendToken } = this._settings;
    const url = new URL('sessionkeeper/events?beat=', withSlash(wsUrl));
    if (appendToken && token) {
      url.searchParams.set('token', token);
    }
    return url;
  }

  _connect() {
    this._timer = null;
    this._silence = 0;
    const socket = new WebSocket(this._url());
    this._socket = socket;
    socket.onmessage = ({ data }) => {
      if (socket === this._socket) {
        this._silence = 0;
        if (data) {
          this._take(JSON.parse(data));
        }
      }
    };
    socket.onclose = () => this._lose(socket);
  }

  _take(status) {
    this._failures = 0;
    this._last = status;
    this._listener(status);
    if (server.isAway) {
      server.isAway = false;
      const detail = { silent: this._wasSilent };
      this._wasSilent = false;
      server.dispatchEvent(new CustomEvent('returned', { detail }));
    }
  }

  _listen() {
    this._silence += 1;
    if (this._timer === null && this._silence > SILENT_SECONDS) {
      this._wasSilent = true;
      this._socket.close(); // which takes long where nothing gets through
      this._lose(this._socket);
    }
  }

  _lose(socket) {
    if (socket !== this._socket) {
      return;
    }
    this._socket = null;
    if (!server.isAway) {
      server.isAway = true;
      server.dispatchEvent(new Event('lost'));
    }
    this._listener({ ...this._last, state: 'server-away', message: '' });
    this._again(RETRY_MS[Math.min(this._failures, RETRY_MS.length - 1)]);
    this._failures += 1;
  }

  _again(ms) {
    if (this._socket?.readyState === WebSocket.OPEN) {
      return;
    }
    window.clearTimeout(this._timer);
    this._timer = window.setTimeout(() => this._connect(), ms);
  }
}
