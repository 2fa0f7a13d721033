// Starts the page. Everything that it touches outside is passed in, so that tests can pass other things.

import { App } from "./app.js";

export const app = new App({
  document,
  fetch: (path, options) => fetch(path, options),
  timer: { set: (action, ms) => setTimeout(action, ms), clear: (id) => clearTimeout(id) },
  now: () => Date.now(),
});
app.start();
