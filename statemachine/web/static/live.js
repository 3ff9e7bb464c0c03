// Asks for the page again now and then, and puts what has changed in its place. Without scripts: load the page again.
"use strict";
(() => {
  const page = document.documentElement;
  const every = Number(page.dataset.every) * 1000;
  const note = document.getElementById("refreshed");
  let tag = page.dataset.tag;
  const focusable = "a[href], summary, [tabindex]";
  const seen = new Map(); // of each part: its children as the server has sent them

  const parts = (whole) => ["header", "main"].map((name) => whole.querySelector(name));
  const texts = (part) => [...part.children].map((child) => child.outerHTML);
  for (const part of parts(document)) seen.set(part.localName, texts(part));

  const replace = (old, fresh) => {
    const open = [...old.querySelectorAll("details")].map((one) => one.open);
    const at = [...old.querySelectorAll(".wide")].map((one) => one.scrollLeft);
    const focus = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
    old.replaceWith(fresh);
    fresh.querySelectorAll("details").forEach((one, number) => { one.open = open[number] ?? false; });
    fresh.querySelectorAll(".wide").forEach((one, number) => { one.scrollLeft = at[number] ?? 0; });
    if (focus >= 0) fresh.querySelectorAll(focusable)[focus]?.focus({ preventScroll: true });
  };

  const put = (fresh) => {
    document.title = fresh.title;
    for (const part of parts(fresh)) {
      const old = document.querySelector(part.localName);
      const before = seen.get(part.localName), after = texts(part);
      const children = [...part.children];
      if (before.length !== after.length) old.replaceChildren(...children);
      else [...old.children].forEach((child, number) => {
        if (before[number] !== after[number]) replace(child, children[number]);
      });
      seen.set(part.localName, after);
    }
  };

  const look = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { headers: { "If-None-Match": tag }, cache: "no-store" });
      if (answer.status === 200) {
        put(new DOMParser().parseFromString(await answer.text(), "text/html"));
        tag = answer.headers.get("ETag");
      }
      if (answer.ok || answer.status === 304) note.textContent = "";
      else note.textContent = `Not refreshed: the server answers ${answer.status}.`;
    } catch {
      note.textContent = "Not refreshed: the server does not answer.";
    }
  };

  const again = () => setTimeout(async () => { await look(); again(); }, every);
  document.addEventListener("visibilitychange", look);
  again();
})();
