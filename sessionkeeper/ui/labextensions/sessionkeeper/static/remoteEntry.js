// A module federation container, written by hand: what JupyterLab expects of a prebuilt extension
// is an object with `init(shareScope)` and `get(module)`. The share scope holds JupyterLab's own
// modules as {name: {version: {get: () => Promise<() => module>}}}. The rest is plain ES modules
// beside this file, so there is nothing to build.
(() => {
  const base = new URL('.', document.currentScript.src);
  let scope = null;

  const newestFirst = (a, b) =>
    b.localeCompare(a, undefined, { numeric: true, sensitivity: 'base' });

  const shared = async name => {
    const versions = scope[name];
    if (!versions) {
      throw new Error(`sessionkeeper: this JupyterLab does not share ${name}`);
    }
    const version = Object.keys(versions).sort(newestFirst)[0];
    return (await versions[version].get())();
  };

  const extension = async () => {
    const [
      application,
      apputils,
      docmanager,
      notebook,
      statusbar,
      widgets,
      status,
      outputs,
      patience,
      socket
    ] = await Promise.all([
      shared('@jupyterlab/application'),
      shared('@jupyterlab/apputils'),
      shared('@jupyterlab/docmanager'),
      shared('@jupyterlab/notebook'),
      shared('@jupyterlab/statusbar'),
      shared('@lumino/widgets'),
      import(new URL('plugin.js', base)),
      import(new URL('outputs.js', base)),
      import(new URL('patience.js', base)),
      import(new URL('socket.js', base))
    ]);
    const plugins = [
      status.createPlugin({ apputils, statusbar, widgets, base }),
      outputs.createPlugin({ notebook, kernelSocket: socket.kernelSocket }),
      patience.createPlugin({ docmanager }),
      patience.createSilence({ application })
    ];
    return () => ({ __esModule: true, default: plugins });
  };

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB.sessionkeeper = {
    init: shareScope => {
      scope = shareScope;
    },
    get: module =>
      module === './extension'
        ? extension()
        : Promise.reject(new Error(`sessionkeeper: no module ${module}`))
  };
})();
