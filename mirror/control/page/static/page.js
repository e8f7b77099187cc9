// Says so when the mirror no longer answers; the events begin again by themselves.
"use strict";
const lost = document.getElementById("lost");
document.body.addEventListener("htmx:sseError", () => { lost.hidden = false; });
document.body.addEventListener("htmx:sseOpen", () => { lost.hidden = true; });

// What an operator has the mirror do with an image; the API says what has come of it.
async function act(path, image) {
  const said = document.getElementById("acted");
  said.textContent = "…";
  const body = JSON.stringify(path.endsWith("/warm") ? { images: [image] } : { image });
  try {
    const answer = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body,
    });
    said.textContent = answer.ok ? said.dataset.done : (await answer.json()).detail;
  } catch {
    said.textContent = said.dataset.lost;
  }
}
document.body.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-image]");
  if (button) { act(button.dataset.act, button.dataset.image); }
});
document.body.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-acts]")) { return; }
  event.preventDefault();
  act(event.submitter.dataset.act, event.target.elements.image.value.trim());
});
