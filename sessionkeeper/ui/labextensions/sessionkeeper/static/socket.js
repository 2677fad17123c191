// The WebSocket of a kernel, with numbered messages: after a break the page says the last number it
// has, and gets the rest, each message once. To JupyterLab it is a WebSocket as any other.
//
// With `numbered=` in the URL each binary frame of the server begins with a number (8 bytes, big
// endian; 0: has none), and a text frame {"journal", "cursor"} says where numbers begin. After a
// break the URL has them as `numbered=<journal>:<cursor>`.

const HEAD = 8;

/** What this page has of each kernel, by connection: {journal, cursor}. */
const places = new Map();

const isChannels = url => /\/api\/kernels\/[^/]+\/channels$/.test(url.pathname);

export function numberedSocket(Socket) {
  return class NumberedSocket extends Socket {
    constructor(address, protocols) {
      const url = new URL(address, window.location.href);
      const isNumbered = isChannels(url) && [protocols].flat().some(Boolean);
      const key = url.pathname + url.searchParams.get('session_id');
      if (isNumbered) {
        const place = places.get(key);
        url.searchParams.set('numbered', place ? `${place.journal}:${place.cursor}` : '');
      }
      super(isNumbered ? url.href : address, protocols);
      this._key = isNumbered ? key : null;
    }

    get onmessage() {
      return this._listener ?? null;
    }

    set onmessage(listener) {
      this._listener = listener;
      super.onmessage = this._key && listener ? event => this._take(event, listener) : listener;
    }

    _take(event, listener) {
      const { data } = event;
      if (typeof data === 'string') {
        places.set(this._key, JSON.parse(data));
        return;
      }
      const cursor = Number(new DataView(data).getBigUint64(0));
      if (cursor) {
        places.get(this._key).cursor = cursor;
      }
      listener.call(this, new MessageEvent('message', { data: data.slice(HEAD) }));
    }
  };
}
