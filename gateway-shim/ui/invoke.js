// One call of a function, with any method, path, headers and body.
import { ApiError, url } from './api.js';
import { bytes, duration, h } from './dom.js';

const SHOWN_MAX = 256 * 1024;
const METHODS = ['POST', 'GET', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS'];

export function invokePanel(name, namespace) {
  const method = h('select', null, METHODS.map((text) => h('option', null, text)));
  const path = h('input', { placeholder: '/', spellcheck: 'false', autocomplete: 'off' });
  const headers = h('textarea', { placeholder: 'Content-Type: application/json', spellcheck: 'false', rows: '3' });
  const body = h('textarea', { spellcheck: 'false', rows: '6' });
  const later = h('input', { type: 'checkbox' });
  const send = h('button', { type: 'submit', class: 'primary' }, 'Invoke');
  const answer = h('div', { 'aria-live': 'polite' });
  let running = null;
  const form = h('form', { class: 'form', onsubmit: (event) => { event.preventDefault(); run(); } },
    h('label', { class: 'field' }, h('span', null, 'Method'), method), h('label', { class: 'field' }, h('span', null, 'Path and query'), path),
    h('label', { class: 'field wide' }, h('span', null, 'Headers, one a line'), headers), h('label', { class: 'field wide' }, h('span', null, 'Body'), body),
    h('div', { class: 'row wide' }, send, h('label', { class: 'check' }, later, 'Asynchronously')), h('div', { class: 'wide' }, answer));

  async function run() {
    running?.abort();
    running = new AbortController();
    send.textContent = 'Again';
    answer.replaceChildren(h('p', { class: 'muted' }, 'Waiting for the answer'));
    const begin = performance.now();
    try {
      const target = url(`${later.checked ? 'async-function' : 'function'}/${encodeURIComponent(name)}.${encodeURIComponent(namespace)}${path.value.startsWith('/') || !path.value ? path.value : `/${path.value}`}`);
      const hasBody = !['GET', 'HEAD'].includes(method.value);
      const response = await fetch(target, { method: method.value, headers: read(headers.value), body: hasBody ? body.value : undefined, redirect: 'manual', signal: running.signal });
      const data = new Uint8Array(await response.arrayBuffer());
      answer.replaceChildren(...shown(response, data, performance.now() - begin));
    } catch (error) {
      if (error.name !== 'AbortError') answer.replaceChildren(h('p', { class: 'error' }, error instanceof ApiError || error instanceof RangeError ? error.message : 'No answer: the connection broke or the header is not allowed.'));
    }
  }

  return { element: h('section', { class: 'card' }, h('header', null, h('h2', null, 'Invoke')), h('div', { class: 'body' }, form)), close: () => running?.abort() };
}

function read(text) {
  const pairs = text.split('\n').filter((line) => line.trim()).map((line) => {
    const colon = line.indexOf(':');
    if (colon < 1) throw new RangeError(`"${line.trim().slice(0, 60)}" is no header: write Name: value`);
    return [line.slice(0, colon).trim(), line.slice(colon + 1).trim()];
  });
  return new Headers(pairs);
}

function shown(response, data, ms) {
  const isText = !data.subarray(0, 4096).includes(0);
  const text = isText ? new TextDecoder().decode(data.subarray(0, SHOWN_MAX)) : '(binary)';
  const more = data.length > SHOWN_MAX && isText ? `\n… ${bytes(data.length - SHOWN_MAX)} more` : '';
  const status = response.type === 'opaqueredirect' ? 'a redirect' : `${response.status} ${response.statusText}`;
  return [h('p', null, h('b', null, status), h('span', { class: 'muted' }, `  ${duration(ms)}, ${bytes(data.length)}`)),
    h('details', null, h('summary', null, 'Headers'), h('pre', { class: 'answer' }, [...response.headers].map(([key, value]) => `${key}: ${value}`).join('\n'))),
    h('pre', { class: 'answer', tabindex: '0', 'aria-label': 'Answer' }, text + more)];
}
