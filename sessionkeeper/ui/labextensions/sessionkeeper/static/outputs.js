// Shows in its cell what a cell puts out that this page did not run itself: one that was running
// when the page was reloaded, or that another tab runs.
//
// The server names the cell in the header of each request, and so in the parent of each message.
// A new page is told at first what its running cells have put out so far.

import { hasSession } from './feed.js';

const CELL = 'sessionkeeper_cell';

/** What an output area takes for the future of a request; messages are fed to it from outside. */
class Foreign {
  constructor(kernel, request) {
    this.msg = { header: request, content: {}, channel: 'shell', metadata: {}, parent_header: {} };
    this.count = null;
    this.isDisposed = false;
    this.done = new Promise(resolve => {
      this._resolve = resolve;
    });
    this._kernel = kernel;
    this.onIOPub = this.onReply = this.onStdin = () => undefined;
  }

  sendInputReply(content, parent) {
    this._kernel.sendInputReply(content, parent);
  }

  registerMessageHook() {}

  removeMessageHook() {}

  end() {
    this._resolve();
  }

  dispose() {
    this.isDisposed = true;
    this._resolve();
  }
}

/** One notebook panel and the messages of its kernels. */
class Mirror {
  constructor(panel) {
    this._panel = panel;
    this._early = [];
    this._displays = new Map(); // display id → futures of cells that show it
    this._captured = new Map(); // comm of an Output widget → request that it shows
    const { sessionContext, context } = panel;
    sessionContext.kernelChanged.connect((_, { newValue }) => this._listen(newValue));
    this._listen(sessionContext.session?.kernel);
    Promise.all([context.ready, panel.revealed]).then(() => {
      const early = this._early;
      this._early = null;
      early.forEach(([kernel, msg]) => this._show(kernel, msg));
    });
  }

  _listen(kernel) {
    if (kernel && kernel !== this._kernel) {
      this._kernel = kernel;
      kernel.anyMessage.connect((_, { msg, direction }) => {
        if (direction === 'recv' && !this._panel.isDisposed) {
          this._take(kernel, msg);
        }
      });
    }
  }

  _take(kernel, msg) {
    const captured = msg.content?.data?.state?.msg_id;
    if (captured !== undefined && msg.header.msg_type.startsWith('comm_')) {
      this._captured.set(msg.content.comm_id, captured);
    }
    const isOurs = !msg.parent_header?.[CELL] || msg.parent_header.session === kernel.clientId;
    if (isOurs && !msg.content?.transient?.display_id) {
      return;
    }
    if (this._early) {
      this._early.push([kernel, msg]);
    } else {
      this._show(kernel, msg, isOurs);
    }
  }

  _show(kernel, msg, isOurs = msg.parent_header?.session === kernel.clientId) {
    const { model } = this._panel.context;
    // The server has these outputs: there is nothing to save because of them.
    const { dirty } = model;
    this._update(msg);
    const cell = isOurs ? null : this._cell(msg.parent_header[CELL]);
    if (cell) {
      this._put(kernel, cell, msg);
    }
    if (!dirty) {
      model.dirty = false;
    }
  }

  _cell(id) {
    return this._panel.content.widgets.find(
      ({ model }) => model.type === 'code' && model.sharedModel.getId() === id
    );
  }

  _put(kernel, cell, msg) {
    const { content, header, parent_header: request } = msg;
    if (msg.channel === 'stdin') {
      this._future(kernel, cell, request).onStdin(msg);
    } else if (msg.channel !== 'iopub') {
      return;
    } else if (header.msg_type === 'execute_input') {
      const future = new Foreign(kernel, request);
      future.count = content.execution_count;
      cell.outputArea.future = future; // clears it
      cell.model.executionCount = null;
      cell.model.executionState = 'running';
      cell.model.trusted = true;
    } else if (header.msg_type !== 'status') {
      if ([...this._captured.values()].includes(request.msg_id)) {
        return; // the widget shows it
      }
      const future = this._future(kernel, cell, request);
      future.onIOPub(msg);
      this._remember(content.transient?.display_id, future);
    } else if (content.execution_state === 'busy') {
      cell.model.executionState = 'running';
    } else if (content.execution_state === 'idle') {
      const future = this._future(kernel, cell, request);
      future.onIOPub(msg);
      if (future.count !== null) {
        cell.model.executionCount = future.count;
      }
      cell.model.executionState = 'idle';
      future.end();
    }
  }

  _future(kernel, cell, request) {
    const area = cell.outputArea;
    if (area.future instanceof Foreign && area.future.msg.header.msg_id === request.msg_id) {
      return area.future;
    }
    // Something of a cell that had ended when the page was opened: it adds to what is there.
    const future = new Foreign(kernel, request);
    future.count = cell.model.executionCount;
    if (area.reattachFuture) {
      area.reattachFuture(future);
    } else {
      area.future = future;
    }
    return future;
  }

  _remember(display, future) {
    if (display) {
      this._displays.set(display, (this._displays.get(display) ?? new Set()).add(future));
    }
  }

  /** A display that changes, changes in the cells of others as well. */
  _update(msg) {
    const { header, content, parent_header: request } = msg;
    if (!['display_data', 'update_display_data'].includes(header.msg_type)) {
      return;
    }
    for (const future of this._displays.get(content.transient?.display_id) ?? []) {
      if (future.msg.header.msg_id !== request?.msg_id) {
        future.onIOPub({ ...msg, header: { ...header, msg_type: 'update_display_data' } });
      }
    }
  }
}

export function createPlugin({ notebook, kernelSocket }) {
  return {
    id: 'sessionkeeper:outputs',
    description: 'Outputs of cells come once, and also if another page has started them.',
    autoStart: true,
    requires: [notebook.INotebookTracker],
    activate: async (app, tracker) => {
      const settings = app.serviceManager.serverSettings;
      if (!(await hasSession(settings))) {
        return;
      }
      settings.WebSocket = kernelSocket(settings);
      tracker.widgetAdded.connect((_, panel) => new Mirror(panel));
      tracker.forEach(panel => new Mirror(panel));
    }
  };
}
