// What each answer might have said at a token, over the chart: the likeliest tokens of every column, and what the
// direction wrote there. Open as long as a token is kept. The server is asked for a token when it is first shown.

const SHARES = 5; // tokens a column
const PATIENCE = 20000; // ms until a question that nobody answered is called one
const look = element.querySelector('#sc-look');
const lookColumns = element.querySelector('#sc-look-columns');

let likeliest = new Map(); // by number: {columns, message}
let askedAt = new Map(); // by number: when the server was asked
let lookKey = '';
let opener = null;

function forgetLikeliest() {
  likeliest = new Map();
  askedAt = new Map();
  lookKey = '';
}

const keptLikeliest = () => ({ likeliest, askedAt });

function restoreLikeliest(kept) {
  likeliest = new Map([...kept.likeliest, ...likeliest]);
  askedAt = kept.askedAt;
}

function readLikeliest(record) {
  const bar = record.indexOf('|');
  likeliest.set(Number(record.slice(0, bar)), JSON.parse(record.slice(bar + 1)));
  lookKey = '';
}

document.addEventListener('steering-looked', (event) => {
  for (const record of String(event.detail || '').split('\n')) if (record.startsWith('P|')) readLikeliest(record.slice(2));
  schedule();
});

// One question at a time: of answers that come together, only the last would reach the page.
const overdue = (number) => performance.now() - askedAt.get(number) > PATIENCE;
const isAsking = () => [...askedAt.keys()].some((number) => !likeliest.has(number) && !overdue(number));

// Called at every drawing: opens, closes, asks and fills.
function drawLook() {
  if (!pinned || !run) {
    if (!look.hidden) closeLook();
    return;
  }
  const number = pinned.place + 1;
  const waits = RUNNING.includes(state.state);
  if (!likeliest.has(number) && !askedAt.has(number) && !waits && !isAsking()) {
    askedAt.set(number, performance.now());
    trigger('select', { number });
    setTimeout(() => { lookKey = ''; schedule(); }, PATIENCE + 50);
  }
  const key = [run.run, number, waits, likeliest.has(number), parts.join(), columnsKey, tokens.map((list) => list.length).join()].join('|');
  const changed = key !== lookKey;
  if (changed) {
    lookKey = key;
    fillLook(number, waits);
  }
  if (look.hidden) openLook();
  // Without a plot there is nothing that it could lie over, so that it stands below and grows.
  if (changed && idea.no_plot && !waits) look.scrollIntoView({ block: 'nearest' });
}

function openLook() {
  look.hidden = false;
  opener = document.activeElement === document.body ? null : document.activeElement;
  look.querySelector('[data-step="1"]').focus({ preventScroll: true });
}

function closeLook() {
  const hadFocus = look.contains(document.activeElement);
  look.hidden = true;
  for (const number of askedAt.keys()) if (!likeliest.has(number) && overdue(number)) askedAt.delete(number);
  if (hadFocus) (opener && opener.isConnected ? opener : box).focus({ preventScroll: true });
}

function fillLook(number, waits) {
  const found = likeliest.get(number);
  put(find('sc-look-title'), `What each answer might have said at ${unit()} ${number}`);
  put(find('sc-look-words'), lookWords(number, found, waits));
  lookColumns.replaceChildren(...(found && found.columns ? found.columns.slice(0, columnCount()).map((column, which) => lookColumn(column, which, number)) : []));
  const wrote = find('sc-look-wrote');
  wrote.replaceChildren(...wroteWords(number));
  for (const button of look.querySelectorAll('[data-step]')) {
    const next = number + Number(button.dataset.step);
    button.setAttribute('aria-disabled', String(next < 1 || next > longest()));
  }
}

function lookWords(number, found, waits) {
  if (found && found.message) return found.message;
  if (!found && waits) return 'Follows when the answers are written.';
  if (!found && askedAt.has(number) && overdue(number)) return 'The model did not say. Close this and press the word again.';
  if (!found) return 'Asking the model…';
  const part = parts[0];
  return part >= 0 && number > part + 1
    ? `The answers parted at ${unit()} ${part + 1}. From there each one continues its own text. Five likeliest tokens:`
    : `${capital(allWords())} have written the same so far. The five likeliest next tokens of each:`;
}

function part(tag, name, text = '') {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text) node.textContent = text;
  return node;
}

function lookColumn(column, which, number) {
  const node = part('section', 'look-column');
  node.dataset.look = looksOf(which);
  const head = part('h3');
  const picture = find(`pane-${PANES[which]}`)?.querySelector('.swatch');
  if (picture) head.append(picture.cloneNode(true));
  head.append(part('span', '', columnCount() > 3 ? idea.short[which] : idea.names[which]));
  node.append(head);
  if (!column) {
    node.append(part('p', 'look-ended', 'This answer had already ended.'));
    return node;
  }
  if (!column.likeliest.length) {
    node.append(part('p', 'look-ended', 'Its server does not say.'));
    return node;
  }
  const said = tokens[which][number - 1];
  const shares = column.likeliest.slice(0, SHARES).map(([text, share]) => [String(text), Number(share) || 0]);
  let at = said ? shares.findIndex(([text]) => text === said.text) : -1;
  if (said && at < 0) at = shares.findIndex(([text]) => text.trim() === said.text.trim() && text.trim() !== '');
  const list = part('ol');
  shares.forEach(([text, share], index) => list.append(lookRow(visible(text), share, index === at)));
  const rest = Math.max(0, 1 - shares.reduce((sum, [, share]) => sum + share, 0));
  const others = part('li', 'look-rest');
  const rested = columnCount() > 3 ? 'all others' : 'all other tokens';
  others.append(part('span', '', said && at < 0 && said.text ? `${rested}, ${quoted(said.text)} ✓` : rested), part('output', '', percent(rest)));
  list.append(others);
  node.append(list);
  return node;
}

function lookRow(text, share, said) {
  const row = part('li', said ? 'said' : '');
  row.style.setProperty('--share', share.toFixed(4));
  const words = part('span', '', text);
  if (said) {
    const tick = part('i', '', ' ✓');
    tick.setAttribute('role', 'img');
    tick.setAttribute('aria-label', 'said');
    words.append(tick);
  }
  row.append(words, part('output', '', percent(share)));
  return row;
}

const visible = (text) => text.trim() || (text.includes('\n') ? '↵' : text ? '␣' : '…');
const percent = (share) => (share > 0 && share < 0.01 ? '<1%' : `${Math.round(share * 100)}%`);

// What the direction wrote at this token: how far each answer points along it.
function wroteWords(number) {
  if (!run.layers) return []; // there are no cosines
  const layer = run.layer ?? pinned.layer;
  const values = columnList().filter((which) => tokens[which][number - 1])
    .map((which) => `${idea.short[which]} ${shownCosine(tokens[which][number - 1], layer)}`);
  return [part('b', '', `Along the direction at layer ${layer}: `), values.join(' · ')];
}

function step(by) {
  if (!pinned) return;
  const place = Math.max(0, Math.min(longest() - 1, pinned.place + by));
  pinned = { place, layer: pinned.layer };
  hover = null;
  schedule();
  put(find('spoken'), `${capital(unit())} ${place + 1}`);
}

function letGo() {
  pinned = hover = null;
  schedule();
}

look.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.step) step(Number(button.dataset.step));
  else letGo();
});

look.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') letGo();
  else if (event.key === 'ArrowLeft') step(-1);
  else if (event.key === 'ArrowRight') step(1);
  else return;
  event.preventDefault();
  event.stopPropagation();
});
