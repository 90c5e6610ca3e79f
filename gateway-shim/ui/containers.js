// A function's containers, each with its two workers, as they are now.
import { bytes, cpu, duration, gauge, h } from './dom.js';
import { live } from './live.js';

const ROLES = { owner: 'owner', second: 'second', guest: 'guest', generic: 'generic' };
const KEYS = [['owner', 'own worker'], ['second', 'second worker'], ['guest', 'lent to a guest'], ['generic', 'generic, waiting']];

export const legend = () => h('p', { class: 'legend' }, KEYS.map(([role, text]) => h('span', { '--key': `var(--${role})` }, text)));

const age = (container) => duration(Math.max(0, Math.floor((live.now() - container.since) / 1000)) * 1000, true);
/** Names are namespace.function.random: within one function the end tells them apart. */
const shortName = (container) => container.id.split('.').at(-1);

/** What distinguishes two drawings; cheap to compare. */
export const keyOf = (item) => JSON.stringify(item.containers?.map((container) => [container, age(container)]) ?? null);

export function containers(item) {
  if (!item.containers) return h('p', { class: 'muted' }, 'This provider does not tell about its containers.');
  if (item.containers.length === 0) return h('p', { class: 'muted' }, item.replicas === 0 ? 'None: it is at zero, the next request starts one.' : 'None yet.');
  return h('div', { class: 'containers' }, item.containers.map(one));
}

function one(container) {
  const used = container.cpu_milli;
  const quota = container.cpu_quota_milli;
  const memory = container.memory_bytes;
  const most = container.memory_max_bytes;
  return h('article', { class: 'container', 'data-phase': container.phase, 'data-level': container.level },
    h('p', null, h('code', { title: container.id }, shortName(container)), h('span', { class: 'muted' }, `${container.phase} ${age(container)}`)),
    h('div', { class: 'workers' }, (container.workers ?? []).map(worker)),
    h('div', null,
      gauge('CPU', quota ? used / quota : 0, quota ? `${cpu(used)} of ${cpu(quota)}` : `${cpu(used)}, no quota`, container.level === 'high'),
      gauge('RAM', most ? memory / most : 0, most ? `${bytes(memory)} of ${bytes(most)}` : bytes(memory), most && memory / most > 0.9)));
}

function worker(now) {
  const role = ROLES[now.role] ?? 'generic';
  const load = now.limit ? `${now.in_flight} of ${now.limit}` : `${now.in_flight ?? 0} running`;
  return h('div', { class: 'worker', 'data-role': role, 'data-state': now.state, title: now.function ?? '' },
    h('b', null, role === 'guest' ? now.function : role), h('span', null, role === 'generic' ? 'waiting' : now.state === 'ready' ? load : now.state));
}
