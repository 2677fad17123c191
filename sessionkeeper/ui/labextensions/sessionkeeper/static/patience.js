// Requests wait for a server that is away for a moment, and documents are not saved by themselves
// until it is back: nobody has to close dialogs because of it.

import { hasSession, server } from './feed.js';

const PATIENCE_MS = 30000;
const PAUSE_MS = 500;

/** What proxies answer for a server that is away. */
const AWAY = [502, 503, 504];

function pause() {
  return new Promise(resolve => {
    server.addEventListener('returned', resolve, { once: true });
    window.setTimeout(resolve, PAUSE_MS);
  });
}

/** Whether it does no harm to ask twice. Pieces of an upload are appended. */
async function isRepeatable(request) {
  if (request.method !== 'PUT') {
    return request.method === 'GET';
  }
  const model = await request
    .clone()
    .json()
    .catch(() => null);
  return model !== null && model.chunk === undefined;
}

async function answer(fetch, request) {
  try {
    const response = await fetch(request.clone());
    return { response, isAway: server.isAway && AWAY.includes(response.status) };
  } catch (error) {
    return { error, isAway: !request.signal.aborted };
  }
}

export function patientFetch(fetch) {
  return async (input, init) => {
    const request = new Request(input, init);
    const last = Date.now() + PATIENCE_MS;
    for (;;) {
      const { response, error, isAway } = await answer(fetch, request);
      if (!isAway || Date.now() > last || !(await isRepeatable(request))) {
        if (error) {
          throw error;
        }
        return response;
      }
      await pause();
    }
  };
}

export function createPlugin({ docmanager }) {
  return {
    id: 'sessionkeeper:patience',
    description: 'Documents are saved by themselves once the server is back.',
    autoStart: true,
    requires: [docmanager.IDocumentManager],
    activate: async (app, documents) => {
      const settings = app.serviceManager.serverSettings;
      if (!(await hasSession(settings))) {
        return;
      }
      settings.fetch = patientFetch(settings.fetch);
      let { autosave } = documents;
      server.addEventListener('lost', () => {
        autosave = documents.autosave;
        documents.autosave = false;
      });
      server.addEventListener('returned', () => {
        documents.autosave = autosave;
      });
    }
  };
}

/** No dialog says that the server is away: the status bar does, and nothing has to be done. */
export function createSilence({ application }) {
  return {
    id: 'sessionkeeper:connection-lost',
    description: 'A server that is away is told in the status bar.',
    autoStart: true,
    provides: application.IConnectionLost,
    activate: () => () => Promise.resolve()
  };
}
