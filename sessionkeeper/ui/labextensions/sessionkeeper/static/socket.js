// The WebSocket of a kernel, which loses nothing when it breaks. To JupyterLab it is a WebSocket as
// any other.
//
// What the kernel says is numbered: with `numbered=` in the URL each binary frame of the server
// begins with a number (8 bytes, big endian; 0: has none), and a text frame {"journal", "cursor"}
// says where numbers begin. After a break the URL has them as `numbered=<journal>:<cursor>`, and the
// rest comes, each message once.
//
// What the page sends is kept (`keeps`) until a text frame {"safe": n} says that the first n messages
// of this socket are in the gateway's journal. After a break what is left is sent again; the gateway
// knows messages by their ids. A socket takes messages for some time after its server has died.

const HEAD = 8;

/** By connection: `place` {journal, cursor}, `kept` messages, and the `socket` that it has now. */
const connections = new Map();

const isChannels = url => /\/api\/kernels\/[^/]+\/channels$/.test(url.pathname);

function connectionOf(url) {
  const key = url.pathname + url.searchParams.get('session_id');
  if (!connections.has(key)) {
    connections.set(key, { place: null, kept: [], socket: null });
  }
  return connections.get(key);
}

export function numberedSocket(Socket) {
  return class NumberedSocket extends Socket {
    constructor(address, protocols) {
      const url = new URL(address, window.location.href);
      const isNumbered = isChannels(url) && [protocols].flat().some(Boolean);
      const connection = isNumbered ? connectionOf(url) : null;
      if (isNumbered) {
        const { place } = connection;
        url.searchParams.set('numbered', place ? `${place.journal}:${place.cursor}` : '');
        url.searchParams.set('keeps', '');
      }
      super(isNumbered ? url.href : address, protocols);
      this._connection = connection;
      this._safe = 0;
      if (isNumbered) {
        connection.socket = this;
        // Before JupyterLab, which has not set `onopen` yet.
        this.addEventListener('open', () => connection.kept.forEach(data => super.send(data)));
      }
    }

    send(data) {
      super.send(data);
      this._connection?.kept.push(data);
    }

    get onmessage() {
      return this._listener ?? null;
    }

    set onmessage(listener) {
      this._listener = listener;
      super.onmessage =
        this._connection && listener ? event => this._take(event, listener) : listener;
    }

    _take({ data }, listener) {
      const connection = this._connection;
      if (connection.socket !== this) {
        return; // one that JupyterLab gave up; the next one gets all that
      }
      if (typeof data === 'string') {
        this._heed(JSON.parse(data));
        return;
      }
      const cursor = Number(new DataView(data).getBigUint64(0));
      if (cursor) {
        connection.place.cursor = cursor;
      }
      listener.call(this, new MessageEvent('message', { data: data.slice(HEAD) }));
    }

    _heed(notice) {
      if (notice.safe === undefined) {
        this._connection.place = notice;
      } else {
        this._connection.kept.splice(0, notice.safe - this._safe);
        this._safe = notice.safe;
      }
    }
  };
}
