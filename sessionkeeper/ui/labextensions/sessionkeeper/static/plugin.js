// The status bar item, its details, and notifications.

import { Feed, hasSession } from './feed.js';
import { fillDetails } from './details.js';
import { alerts, describe } from './words.js';

const LONG_NOTICE_MS = 20000;
const FIRST_VISIT_SECONDS = 600;

function element(tag, className, attributes = {}) {
  const node = document.createElement(tag);
  node.className = className;
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, value);
  }
  return node;
}

function addStyle(base) {
  document.head.append(element('link', '', { rel: 'stylesheet', href: new URL('style.css', base) }));
}

/** Remembers, over reloads of the page, which events were notified. */
class Seen {
  constructor(session) {
    this._key = `sessionkeeper:seen:${session}`;
    this.warnings = new Set();
  }

  at(now) {
    const stored = Number(window.localStorage.getItem(this._key));
    return stored || now - FIRST_VISIT_SECONDS;
  }

  note(status) {
    const last = Math.max(0, ...(status.events ?? []).map(event => event.at));
    if (last) {
      window.localStorage.setItem(this._key, String(last));
    }
    this.warnings = new Set(status.warnings ?? []);
  }
}

export function createPlugin({ apputils, statusbar, widgets, base }) {
  const { Notification } = apputils;
  const { IStatusBar, showPopup } = statusbar;
  const { Widget } = widgets;

  class StatusItem extends Widget {
    constructor(app) {
      super({ node: element('div', 'sk-Status') });
      this._app = app;
      this._status = { state: 'server-away' };
      this._seenMessage = { text: '', at: 0 };
      this._offset = 0;
      this._popup = null;
      this._seen = null;

      this._button = element('button', 'sk-Status-button', {
        type: 'button',
        'aria-haspopup': 'dialog',
        'data-testid': 'sessionkeeper-status'
      });
      this._glyph = element('span', 'sk-Status-glyph', { 'aria-hidden': 'true' });
      this._text = element('span', 'sk-Status-text', { role: 'status', 'aria-live': 'polite' });
      // Not read aloud: it changes each second.
      this._age = element('span', 'sk-Status-age', { 'aria-live': 'off' });
      this._button.append(this._glyph, this._text, this._age);
      this._button.addEventListener('click', () => this.toggleDetails());
      this.node.append(this._button);
      this._timer = window.setInterval(() => this._show(), 1000);
      this._feed = new Feed(app.serviceManager.serverSettings, status => this._take(status));
      this._show();
    }

    get _now() {
      return Date.now() / 1000 + this._offset;
    }

    _take(status) {
      if (status.now) {
        // Ages are told by the server's clock: this machine's may be minutes off.
        this._offset = status.now - Date.now() / 1000;
      }
      if (status.message !== this._seenMessage.text) {
        this._seenMessage = { text: status.message ?? '', at: this._now };
      }
      this._status = status;
      this._show();
      this._notify(status);
    }

    _show() {
      const status = this._status;
      const { glyph, tone, text, age } = describe(status, this._now, this._seenMessage.at);
      this._glyph.textContent = glyph;
      if (this._text.textContent !== text) {
        this._text.textContent = text;
      }
      this._age.textContent = age ? ` · ${age}` : '';
      const { dataset } = this._button;
      dataset.state = status.state;
      dataset.tone = tone;
      dataset.node = status.node ?? '';
      dataset.epoch = status.epoch ?? '';
      dataset.checkpoint = status.checkpoint?.number ?? '';
      this._button.title = `Session: ${text}${age ? `, ${age}` : ''}. Click for details.`;
      if (this._popup && !this._popup.isDisposed && this._details.isAttached) {
        this._fill();
      }
    }

    _notify(status) {
      if (['server-away', 'gateway-away'].includes(status.state)) {
        return;
      }
      this._seen ??= new Seen(status.session);
      const news = alerts(status, this._seen.at(this._now), this._seen.warnings);
      this._seen.note(status);
      for (const { level, text } of news) {
        Notification[level === 'error' ? 'error' : 'warning'](text, {
          autoClose: level === 'error' ? false : LONG_NOTICE_MS,
          actions: [{ label: 'Details', callback: () => this.showDetails() }]
        });
      }
    }

    toggleDetails() {
      if (this._popup && !this._popup.isDisposed && this._details.isAttached) {
        this._popup.dispose();
        this._popup = null;
        return;
      }
      this.showDetails();
    }

    showDetails() {
      this._popup?.dispose();
      this._details = new Widget({
        node: element('div', 'sk-Details', {
          role: 'dialog',
          'aria-label': 'Session details',
          'data-testid': 'sessionkeeper-details'
        })
      });
      this._fill();
      this._popup = showPopup({
        body: this._details,
        anchor: this,
        align: 'left',
        hasDynamicSize: true
      });
    }

    _fill() {
      const notebooks = new Map();
      for (const model of this._app.serviceManager.sessions.running()) {
        if (model.kernel) {
          notebooks.set(model.kernel.id, model.path);
        }
      }
      fillDetails(this._details.node, this._status, this._now, notebooks);
    }

    dispose() {
      window.clearInterval(this._timer);
      super.dispose();
    }
  }

  return {
    id: 'sessionkeeper:status',
    description: 'Where the session runs and how old its newest checkpoint is.',
    autoStart: true,
    requires: [IStatusBar],
    activate: async (app, bar) => {
      if (!(await hasSession(app.serviceManager.serverSettings))) {
        return;
      }
      addStyle(base);
      bar.registerStatusItem('sessionkeeper:status', {
        item: new StatusItem(app),
        align: 'left',
        rank: -1,
        isActive: () => true
      });
    }
  };
}
