"use strict";
(() => {
  const { charts, palette } = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const plots = [...document.querySelectorAll(".plot")];
  // What the reader chose on a live page holds when it is loaded again.
  const live = document.getElementById("live");
  const kept = (live && JSON.parse(sessionStorage.getItem("view"))) || {};
  const hidden = new Set();
  const keep = () => live && sessionStorage.setItem("view", JSON.stringify({ theme: root.dataset.theme, hidden: [...hidden] }));
  const drawn = new Set();
  const dark = () => root.dataset.theme === "dark";

  // Colours are written for a light page; on a dark one each has its counterpart.
  const colored = (value) => {
    if (Array.isArray(value)) return value.map(colored);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, key === "bdata" ? each : colored(each)]));
    }
    return typeof value === "string" && dark() && palette[value] ? palette[value] : value;
  };

  const layoutOf = (chart) => {
    const style = getComputedStyle(root);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: color("--rule"), zerolinecolor: color("--rule"), linecolor: color("--rule"), automargin: true, title: { standoff: 6 } };
    const layout = colored(chart.layout);
    return {
      ...layout,
      height: layout.height || 260,
      margin: { l: 56, r: 14, t: 10, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--text"), family: "inherit", size: 12 },
      hoverlabel: { bgcolor: color("--page"), bordercolor: color("--rule"), font: { color: color("--text") }, namelength: 40 },
      legend: { orientation: "h", y: -0.3 },
      xaxis: { ...axis, ...layout.xaxis, title: { ...axis.title, ...layout.xaxis.title } },
      yaxis: { ...axis, ...layout.yaxis, title: { ...axis.title, ...layout.yaxis.title } },
    };
  };

  const draw = (plot) => {
    drawn.add(plot);
    const chart = charts[plot.dataset.chart];
    const data = colored(chart.data).map((trace) => ({ ...trace, visible: !hidden.has(trace.meta.group) }));
    const config = { responsive: true, displayModeBar: false }; // its buttons would lie over the curves
    return Plotly.react(plot, data, layoutOf(chart), config);
  };

  const redraw = () => drawn.forEach(draw);

  const setTheme = (theme) => { root.dataset.theme = theme; };
  const preference = matchMedia("(prefers-color-scheme: dark)");
  setTheme(kept.theme || (preference.matches ? "dark" : "light"));
  const recolorKeys = () => {
    document.querySelectorAll(".key line").forEach((line) => {
      line.dataset.light ||= line.getAttribute("stroke");
      line.setAttribute("stroke", (dark() && palette[line.dataset.light]) || line.dataset.light);
    });
  };
  const changeTheme = (theme) => { setTheme(theme); recolorKeys(); redraw(); };
  recolorKeys();
  preference.addEventListener("change", (event) => changeTheme(event.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => { changeTheme(dark() ? "light" : "dark"); keep(); });

  document.querySelectorAll(".key").forEach((key) => {
    const group = Number(key.dataset.group);
    const hide = (is) => {
      if (is) hidden.add(group); else hidden.delete(group);
      key.setAttribute("aria-pressed", String(!is));
    };
    hide((kept.hidden || []).includes(group));
    key.addEventListener("click", () => { hide(!hidden.has(group)); keep(); redraw(); });
  });

  // Prompts that two models have completed: those with a text in them, or with rewards that differ.
  const filter = document.getElementById("filter");
  const sift = () => {
    const text = filter.elements.text.value.toLowerCase();
    const differs = filter.elements.differs.value;
    let shown = 0;
    document.querySelectorAll(".pair").forEach((pair) => {
      const fits = pair.textContent.toLowerCase().includes(text) && (!differs || pair.dataset.differs.includes(` ${differs} `));
      pair.hidden = !fits;
      shown += fits;
    });
    filter.querySelector("output").textContent = shown === 1 ? "1 prompt" : `${shown} prompts`;
  };
  if (filter) {
    filter.addEventListener("input", sift);
    filter.addEventListener("submit", (event) => event.preventDefault());
  }

  // Figures are drawn when they come near the window: a page of many runs opens at once.
  const observer = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      observer.unobserve(entry.target);
      draw(entry.target);
    });
  }, { rootMargin: "600px" });
  plots.forEach((plot) => observer.observe(plot));

  // A live page asks for news and is loaded again when there is a newer one: the browser keeps the place.
  const look = async () => {
    const told = live.querySelector("[role=status]");
    try {
      const answer = await fetch("state");
      if (!answer.ok) throw new Error(await answer.text());
      const { status, version } = await answer.json();
      told.textContent = status;
      if (version !== live.dataset.version && live.querySelector("input").checked) return location.reload();
    } catch (error) {
      told.textContent = error instanceof TypeError ? "ctwa watch has ended: this report stays as it is" : error.message;
    }
    setTimeout(look, 1000 * live.dataset.look);
  };
  if (live) look();

  // Paper is light and has no window to scroll.
  let before = null;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    setTheme("light");
    recolorKeys();
    plots.forEach(draw);
  });
  addEventListener("afterprint", () => changeTheme(before));
})();
