// A function's log as it grows. Bounded: the oldest lines leave the page.
import * as api from './api.js';
import { h } from './dom.js';

const LINES_MAX = 2000;

export function logPanel(name, namespace) {
  const stop = new AbortController();
  const text = h('pre', { class: 'log', tabindex: '0', 'aria-label': `Log of ${name}` });
  const state = h('span', { class: 'muted' }, 'connecting');
  const pinned = h('input', { type: 'checkbox', checked: true });
  const element = h('section', { class: 'card' },
    h('header', null, h('h2', null, 'Log'), h('label', { class: 'check' }, pinned, 'Follow'), h('button', { type: 'button', class: 'plain', onclick: () => text.replaceChildren() }, 'Clear'), state), text);

  function add(lines) {
    for (const { instance, text: said } of lines) text.append(h('span', null, h('span', { class: 'who' }, `${(instance ?? '').slice(-8)}  `), `${said}\n`));
    while (text.childElementCount > LINES_MAX) text.firstChild.remove();
    if (pinned.checked) text.scrollTop = text.scrollHeight;
  }

  follow(name, namespace, stop.signal, add, (now) => { state.textContent = now; });
  return { element, close: () => stop.abort() };
}

async function follow(name, namespace, signal, add, tell) {
  try {
    const response = await api.logs(name, namespace, signal);
    tell('following');
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      add(lines.filter(Boolean).map(parsed));
    }
    tell('ended');
  } catch (error) {
    if (error.name !== 'AbortError') tell(error.message);
  }
}

function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return { text: line };
  }
}
