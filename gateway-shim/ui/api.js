// The gateway's API as faas-cli uses it. Paths are relative to this page, so that a proxy's prefix is kept.
const base = new URL('../', location.href.split('#')[0]);

export class ApiError extends Error {
  constructor(status, text) {
    super(text || `status ${status}`);
    this.status = status;
  }
}

export const url = (path) => new URL(path.replace(/^\//, ''), base);

/** Sends a request; an answer that is no success becomes an ApiError with the server's own words. */
export async function call(method, path, body, options = {}) {
  const init = { method, ...options };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { 'Content-Type': 'application/json' };
  }
  const send = () => fetch(url(path), init);
  // A browser gives up what it sends when an address of its host changes; what changes nothing is asked once more.
  const again = (error) => {
    if (method !== 'GET' || error.name === 'AbortError') throw error;
    return send();
  };
  let response;
  try {
    response = await send().catch(again);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'the gateway cannot be reached');
  }
  if (!response.ok) throw new ApiError(response.status, (await response.text()).trim().slice(0, 2000));
  return response;
}

export const json = async (method, path, body) => (await call(method, path, body)).json();

const named = (path, name, namespace, rest = {}) => `${path}?${new URLSearchParams({ ...(name && { name }), ...(namespace && { namespace }), ...rest })}`;

export const functionStatus = (name, namespace) => json('GET', named(`system/function/${encodeURIComponent(name)}`, null, namespace));
export const deploy = (spec) => call('POST', 'system/functions', spec);
export const update = (spec) => call('PUT', 'system/functions', spec);
export const remove = (functionName, namespace) => call('DELETE', 'system/functions', { functionName, namespace });
export const scale = (serviceName, namespace, replicas) => call('POST', named(`system/scale-function/${encodeURIComponent(serviceName)}`, null, namespace), { serviceName, namespace, replicas });
export const namespaces = () => json('GET', 'system/namespaces');
export const secrets = (namespace) => json('GET', named('system/secrets', null, namespace));
export const saveSecret = (isNew, secret) => call(isNew ? 'POST' : 'PUT', 'system/secrets', secret);
export const removeSecret = (name, namespace) => call('DELETE', 'system/secrets', { name, namespace });
export const info = () => json('GET', 'system/info');
export const logs = (name, namespace, signal) => call('GET', named('system/logs', name, namespace, { follow: '1', tail: '200' }), undefined, { signal });
export const queue = () => json('GET', 'system/hyperfaas/async');
export const deadLetters = (after) => json('GET', `system/hyperfaas/async/dead?limit=100${after ? `&after=${after}` : ''}`);
export const redrive = (id) => call('POST', id === undefined ? 'system/hyperfaas/async/dead/redrive' : `system/hyperfaas/async/dead/${id}/redrive`);
export const discard = (id) => call('DELETE', `system/hyperfaas/async/dead/${id}`);
