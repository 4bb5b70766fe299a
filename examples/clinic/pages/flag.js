/** The flag's two controls. They stay hidden where the clinic has no flags file. */

const byId = (id) => document.getElementById(id);

export async function showFlag() {
  const response = await fetch("/demo/flag");
  if (!response.ok) return;
  show(await response.json());
  byId("flag").hidden = false;
  byId("rollout").oninput = () => showShare();
  byId("rollout").onchange = put;
  byId("kill").onchange = put;
}

async function put() {
  const body = JSON.stringify({ rollout: Number(byId("rollout").value), kill: byId("kill").checked });
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("/demo/flag", { method: "PUT", headers, body });
  if (response.ok) show(await response.json());
}

function show({ rollout, kill }) {
  byId("rollout").value = rollout;
  byId("kill").checked = kill;
  showShare();
}

function showShare() {
  const share = `${byId("rollout").value} %`;
  byId("share").textContent = byId("kill").checked ? "nobody" : share;
}
