// Runs that were recorded earlier: their words, and playing them again. A replay takes the tokens that the log holds
// away and gives them back one by one; the answers grow in elements of our own that lie over Gradio's meanwhile.

const REPLAY_RATE = 12; // tokens a second

let replay = null; // {all, timer}

const isRecorded = () => Boolean(run && run.recorded);
const isReplaying = () => replay !== null;
const replayLength = () => Math.max(...replay.all.map((list) => list.length));

function drawRecorded() {
  const offered = isRecorded() && !RUNNING.includes(state.state);
  const button = find('replay');
  if (button) {
    button.hidden = !offered;
    put(button, replay ? 'Stop replay' : 'Replay');
  }
  const how = find('recorded');
  if (!how) return;
  how.hidden = !offered;
  put(how.querySelector('code'), isRecorded() ? run.recorded : '');
}

function startReplay() {
  endReplay();
  replay = { all: tokens, timer: setInterval(playOne, 1000 / REPLAY_RATE) };
  tokens = PANES.map(() => []);
  parts = PANES.map(() => -1);
  pinned = hover = null;
  cellsKey = '';
  for (const { cover, asked } of covers()) {
    if (!cover) continue;
    put(cover.querySelector('.asked'), asked);
    put(cover.querySelector('.said'), '');
    cover.hidden = false;
  }
  schedule();
}

function playOne() {
  const next = longest();
  if (next >= replayLength()) {
    endReplay();
    return;
  }
  for (const column of columnList()) {
    const token = replay.all[column][next];
    if (token) tokens[column].push(token);
  }
  for (const column of columnList().slice(1)) findParting(column);
  for (const { cover, column } of covers()) {
    if (!cover) continue;
    put(cover.querySelector('.said'), tokens[column].map((token) => token.text).join('').trimStart());
    cover.scrollTop = cover.scrollHeight;
  }
  schedule();
}

function endReplay() {
  if (!replay) return;
  clearInterval(replay.timer);
  tokens = replay.all;
  replay = null;
  for (const { cover } of covers()) if (cover) cover.hidden = true;
  for (const column of columnList().slice(1)) findParting(column);
  cellsKey = '';
  schedule();
}

const covers = () => columnList().map((column) => {
  const pane = find(`pane-${PANES[column]}`);
  const questions = pane ? pane.querySelectorAll('.user .message-content') : [];
  return { column, cover: pane && pane.querySelector('.replayed'), asked: questions.length ? questions[questions.length - 1].textContent.trim() : '' };
});

// Gradio scrolls a conversation to its end when it comes, and a short one again at any later news of it, some seconds
// after; a recorded one is read from its beginning. Until someone scrolls by hand, what goes to the very end is Gradio.
let hold = null;

function showFromTheStart() {
  const logs = '.chat [role=log]';
  if (hold) hold.abort();
  hold = new AbortController();
  const { signal } = hold;
  const options = { signal, passive: true, capture: true };
  for (const kind of ['wheel', 'touchstart', 'keydown', 'pointerdown']) {
    addEventListener(kind, (event) => { if (event.target.closest?.('#panes')) hold.abort(); }, options);
  }
  addEventListener('scroll', ({ target: log }) => {
    if (!isRecorded()) hold.abort();
    else if (log.matches?.(logs) && log.scrollTop + log.clientHeight > log.scrollHeight - 2) log.scrollTop = 0;
  }, options);
  for (const log of document.querySelectorAll(logs)) log.scrollTop = 0;
}

document.addEventListener('click', (event) => {
  if (!event.target.closest || !event.target.closest('#replay')) return;
  if (replay) endReplay();
  else startReplay();
});
