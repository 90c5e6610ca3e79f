// What the gateway tells by server-sent events, kept as one state. Nothing here polls.
//
// Events of `system/hyperfaas/live`, all JSON:
//   state      the whole State: { now, system, functions: [Function], decisions: [Decision] }; first, and again after a gap
//   functions  [Function] that have changed, each whole
//   gone       ["name.namespace"] that no longer exist
//   decisions  [Decision] made since, oldest first
//   system     the System, whole
// A value nobody knows is null or absent: other providers tell less than ours. Times are the server's, in milliseconds.
import { url } from './api.js';

const HISTORY = 120;
const DECISIONS = 2000;

/** The state, and `change` events for whoever draws it. */
class Live extends EventTarget {
  system = {};
  functions = new Map();
  decisions = [];
  /** Requests a second and in flight, by function, one pair a tick, oldest first. */
  history = new Map();
  link = 'wait';
  /** How far this machine's clock is ahead of the server's, ms. */
  #ahead = 0;
  #source = null;

  start() {
    this.#source = new EventSource(url('system/hyperfaas/live'));
    const on = (name, take) => this.#source.addEventListener(name, (event) => { take(JSON.parse(event.data)); this.#tell(name); });
    this.#source.addEventListener('open', () => this.#linked('live'));
    this.#source.addEventListener('error', () => this.#linked('lost'));
    on('state', (state) => {
      this.#ahead = state.now ? Date.now() - state.now : 0;
      this.system = state.system ?? {};
      this.functions = new Map(state.functions.map((item) => [id(item), item]));
      this.decisions = (state.decisions ?? []).slice(-DECISIONS);
      for (const key of this.history.keys()) if (!this.functions.has(key)) this.history.delete(key);
    });
    on('functions', (changed) => { for (const item of changed) this.functions.set(id(item), item); });
    on('gone', (names) => { for (const name of names) { this.functions.delete(name); this.history.delete(name); } });
    on('decisions', (made) => { this.decisions = [...this.decisions, ...made].slice(-DECISIONS); });
    on('system', (system) => { this.system = system; });
    // Only for the curves: the same state again is a point on them too.
    setInterval(() => this.#sample(), 1000);
    // Ends the stream at once when the page is left, so that the server need not find out.
    addEventListener('pagehide', () => this.#source.close());
    addEventListener('pageshow', (event) => { if (event.persisted) location.reload(); });
  }

  /** The server's time. */
  now() {
    return Date.now() - this.#ahead;
  }

  decisionsOf(key) {
    return this.decisions.filter((decision) => decision.function === key);
  }

  #sample() {
    if (this.link !== 'live') return;
    const at = this.now();
    for (const [key, item] of this.functions) {
      const line = this.history.get(key) ?? [];
      line.push({ at, rate: item.rate ?? 0, inFlight: item.in_flight ?? 0 });
      if (line.length > HISTORY) line.shift();
      this.history.set(key, line);
    }
    this.#tell('tick');
  }

  #linked(state) {
    this.link = state;
    this.#tell('link');
  }

  #tell(what) {
    this.dispatchEvent(new CustomEvent('change', { detail: what }));
  }
}

export const id = (item) => `${item.name}.${item.namespace}`;
export const live = new Live();
