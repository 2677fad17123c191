// The WebSocket of a kernel, which outlives its server and loses nothing. To JupyterLab it is a
// WebSocket as any other that never breaks: JupyterLab's own way to connect again waits up to half a
// minute, gives up after a few tries, and takes an error of a proxy for the kernel's death.
//
// What the kernel says is numbered: with `numbered=` in the URL each binary frame of the server
// begins with a number (8 bytes, big endian; 0: has none), and a text frame {"journal", "cursor"}
// says where numbers begin. After a break the URL has them as `numbered=<journal>:<cursor>`, and the
// rest comes, each message once.
//
// What the page sends is kept (`keeps`) until a text frame {"safe": n} says that the first n messages
// of this socket are in the gateway's journal. After a break what is left is sent again; the gateway
// knows messages by their ids. A socket takes messages for some time after its server has died.

import { server } from './feed.js';

const HEAD = 8;
const RETRY_MS = [50, 200, 500, 1000, 2000];

/** Answers to which another try will be no different: the kernel is gone, or not for this page. */
const FINAL = [401, 403, 404];

/** By kernel and session: `place` {journal, cursor} and `kept` messages. They outlive a socket that
 * JupyterLab closes, as on "Reconnect to Kernel". */
const connections = new Map();

function connectionOf(url) {
  const key = url.pathname + url.searchParams.get('session_id');
  if (!connections.has(key)) {
    connections.set(key, { place: null, kept: [] });
  }
  return connections.get(key);
}

class KernelSocket {
  constructor(url, protocols, settings) {
    this.binaryType = 'arraybuffer';
    this.protocol = '';
    this.readyState = WebSocket.CONNECTING;
    this.url = url.href;
    this.onopen = this.onmessage = this.onclose = this.onerror = null;
    this._protocols = protocols;
    this._settings = settings;
    this._connection = connectionOf(url);
    this._failures = 0;
    this._onReturned = ({ detail }) => {
      if (detail.silent || this._socket?.readyState !== WebSocket.OPEN) {
        this._dial();
      }
    };
    server.addEventListener('returned', this._onReturned);
    this._dial();
  }

  send(data) {
    if (this.readyState === WebSocket.OPEN) {
      this._connection.kept.push(data);
      if (this._socket?.readyState === WebSocket.OPEN) {
        this._socket.send(data);
      }
    }
  }

  close() {
    this._end(new CloseEvent('close', { code: 1000, wasClean: true }));
  }

  _dial() {
    window.clearTimeout(this._timer);
    this._drop();
    const { place, kept } = this._connection;
    const url = new URL(this.url);
    url.searchParams.set('numbered', place ? `${place.journal}:${place.cursor}` : '');
    url.searchParams.set('keeps', '');
    const socket = new this._settings.WebSocket(url.href, this._protocols);
    socket.binaryType = 'arraybuffer';
    socket.onopen = event => {
      this._failures = this._safe = 0;
      kept.forEach(data => socket.send(data));
      if (this.readyState === WebSocket.CONNECTING) {
        this.protocol = socket.protocol;
        this.readyState = WebSocket.OPEN;
        this.onopen?.(event);
      }
    };
    socket.onmessage = ({ data }) =>
      typeof data === 'string' ? this._heed(JSON.parse(data)) : this._take(data);
    socket.onclose = () => this._redial(socket);
    this._socket = socket;
  }

  /** What a socket that was given up still says comes again by the next one. */
  _drop() {
    if (this._socket) {
      this._socket.onopen = this._socket.onmessage = this._socket.onclose = null;
      this._socket.close();
      this._socket = null;
    }
  }

  async _redial(socket) {
    const pause = RETRY_MS[Math.min(this._failures, RETRY_MS.length - 1)];
    this._failures += 1;
    // Why a socket could not be opened is not told, so it is asked for.
    const isFinal = FINAL.includes(await this._answer());
    if (socket !== this._socket) {
      return; // connected again in the meantime, or closed
    }
    if (isFinal) {
      this.onerror?.(new Event('error'));
      this._end(new CloseEvent('close', { code: 1006 }));
    } else {
      this._timer = window.setTimeout(() => this._dial(), pause);
    }
  }

  /** The status of what the server says of the kernel; null if it does not answer. */
  async _answer() {
    const { token } = this._settings;
    const url = new URL(this.url);
    url.protocol = url.protocol.replace('ws', 'http');
    url.pathname = url.pathname.replace(/\/channels$/, '');
    url.search = '';
    const headers = token ? { Authorization: `token ${token}` } : {};
    try {
      return (await fetch(url, { headers, signal: AbortSignal.timeout(5000) })).status;
    } catch {
      return null;
    }
  }

  _take(data) {
    const cursor = Number(new DataView(data).getBigUint64(0));
    if (cursor) {
      this._connection.place.cursor = cursor;
    }
    this.onmessage?.(new MessageEvent('message', { data: data.slice(HEAD) }));
  }

  _heed(notice) {
    if (notice.safe === undefined) {
      this._connection.place = notice;
    } else {
      this._connection.kept.splice(0, notice.safe - this._safe);
      this._safe = notice.safe;
    }
  }

  _end(event) {
    window.clearTimeout(this._timer);
    server.removeEventListener('returned', this._onReturned);
    this._drop();
    if (this.readyState !== WebSocket.CLOSED) {
      this.readyState = WebSocket.CLOSED;
      queueMicrotask(() => this.onclose?.(event));
    }
  }
}

const isChannels = url => /\/api\/kernels\/[^/]+\/channels$/.test(url.pathname);

/** What `settings.WebSocket` is to be; `settings` as they were. */
export function kernelSocket(settings) {
  const stock = { ...settings };
  return function KernelOrStockSocket(address, protocols) {
    const url = new URL(address, window.location.href);
    return isChannels(url) && [protocols].flat().some(Boolean)
      ? new KernelSocket(url, protocols, stock)
      : new stock.WebSocket(address, protocols);
  };
}
