"""The frame around every page: one style sheet in the page's look, the bars of the system, the body."""

from autoglm_serving.screens.icons import icon_svg
from autoglm_serving.screens.scene import CHINESE_FONT, Look, Scene

_LIGHT = "--bg:#f3f4f6;--card:#ffffff;--ink:#16181d;--dim:#6b7280;--line:#dfe2e7;--soft:#e8ebf0;--shade:#00000066;"
_DARK = "--bg:#111317;--card:#1d2026;--ink:#eceef2;--dim:#9aa1ad;--line:#31353d;--soft:#2a2e36;--shade:#000000a0;"

_CSS = """
*{box-sizing:border-box;margin:0;padding:0}
html,body{height:100%;overflow:hidden;background:var(--bg);color:var(--ink);-webkit-font-smoothing:antialiased}
body{display:flex;flex-direction:column;line-height:1.3;font-size:var(--fs)}
svg.i{display:block;flex:none}
.status{flex:none;display:flex;justify-content:space-between;align-items:center;padding:6px 18px;font-size:12px;
height:28px}
.status .r{display:flex;gap:6px;align-items:center}
.status .bat{width:22px;height:10px;border:1px solid;border-radius:3px;padding:1px}
.status .bat i{display:block;height:100%;background:currentColor}
.nav{flex:none;height:20px;display:flex;align-items:center;justify-content:center}
.nav i{width:120px;height:4px;border-radius:2px;background:var(--ink);opacity:.6}
.bar{flex:none;display:flex;align-items:center;gap:var(--gap);padding:10px 14px;min-height:52px}
.bar .t{flex:1;font-size:1.2em;font-weight:600;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.bar.solid{background:var(--accent);color:#fff}
.icon{padding:8px;display:flex;flex:none;align-items:center;justify-content:center}
.main{flex:1;min-height:0;overflow:hidden;position:relative;display:flex;flex-direction:column}
.scroll{flex:1;min-height:0;overflow:hidden;position:relative}
.card{background:var(--card);border-radius:var(--r);padding:14px;border:1px solid var(--line)}
.group{background:var(--card);border-radius:var(--r);margin:0 14px 14px;overflow:hidden}
.head{padding:10px 18px 6px;color:var(--dim);font-size:.85em}
.row{display:flex;align-items:center;gap:12px;padding:12px 16px;border-bottom:1px solid var(--line);min-height:54px}
.row .g{flex:1;min-width:0}.row .s{color:var(--dim);font-size:.82em;margin-top:2px}
.lead{width:36px;height:36px;border-radius:calc(var(--r) * .8);display:flex;align-items:center;justify-content:center;
color:#fff;flex:none;background:var(--accent)}
.avatar{width:44px;height:44px;border-radius:50%;display:flex;align-items:center;justify-content:center;color:#fff;
flex:none;font-weight:600}
.dim{color:var(--dim)}.small{font-size:.82em}.big{font-size:1.5em;font-weight:700}.b{font-weight:600}
.switch{width:46px;height:26px;border-radius:13px;background:var(--dim);padding:3px;flex:none}
.switch .knob{width:20px;height:20px;border-radius:50%;background:#fff}
.switch.on{background:var(--accent)}.switch.on .knob{margin-left:20px}
.check{display:flex;gap:10px;align-items:center;padding:10px 14px}
.box{width:20px;height:20px;border:2px solid var(--dim);border-radius:4px;color:#fff;flex:none;display:flex;
align-items:center;justify-content:center;font-size:11px}
.box.on{background:var(--accent);border-color:var(--accent)}
.box.radio{border-radius:50%}.box.radio.on{background:var(--card);border:6px solid var(--accent)}
.button{background:var(--accent);color:#fff;border-radius:var(--r);padding:12px 18px;text-align:center;
font-weight:600;white-space:nowrap}
.button.plain{background:transparent;color:var(--tint)}.button.soft{background:var(--soft);color:var(--ink)}
.button.line{background:transparent;color:var(--tint);border:1px solid var(--accent)}
.input{border:1px solid var(--dim);border-radius:var(--r);padding:11px 12px;background:var(--card);min-height:44px;
flex:1;display:flex;align-items:center;overflow:hidden;white-space:nowrap}
.input.focus{border:2px solid var(--accent)}.hint{color:var(--dim)}
.caret{display:inline-block;width:2px;height:1.2em;background:var(--accent);margin:0 1px}
.labelled{display:flex;flex-direction:column;gap:5px}.label{font-size:.85em;color:var(--dim)}
.chip{border:1px solid var(--line);background:var(--card);border-radius:16px;padding:6px 13px;font-size:.9em;
white-space:nowrap}
.chip.on{background:var(--accent);color:#fff;border-color:var(--accent)}
.chips{display:flex;gap:8px;padding:6px 14px 10px;overflow:hidden;flex:none}
.tabs{display:flex;flex:none;border-bottom:1px solid var(--line);overflow:hidden}
.tab{padding:12px 14px;white-space:nowrap;color:var(--dim)}
.tab.on{color:var(--tint);border-bottom:3px solid var(--accent);font-weight:600}
.bottom{flex:none;display:flex;background:var(--card);border-top:1px solid var(--line)}
.bottom .bt{flex:1;display:flex;flex-direction:column;align-items:center;gap:3px;padding:8px 2px;font-size:.78em;
color:var(--dim)}
.bottom .bt.on{color:var(--tint)}
.fab{position:absolute;right:18px;bottom:22px;width:56px;height:56px;border-radius:28px;background:var(--accent);
color:#fff;display:flex;align-items:center;justify-content:center;box-shadow:0 3px 8px #0005}
.link{color:var(--tint);padding:8px;white-space:nowrap;flex:none}
.shade{position:absolute;inset:0;background:var(--shade);display:flex;align-items:center;justify-content:center;
z-index:5}
.dialog{background:var(--card);border-radius:calc(var(--r) + 4px);padding:20px;width:min(84%,420px);display:flex;
flex-direction:column;gap:14px}
.grid{display:grid;gap:var(--gap);padding:14px}
.flow{display:flex;gap:var(--gap);align-items:center}.col{display:flex;flex-direction:column;gap:var(--gap)}
.end{justify-content:flex-end}.pad{padding:14px}.grow{flex:1;min-width:0}
table{width:100%;border-collapse:collapse}
td,th{padding:10px 12px;text-align:left;border-bottom:1px solid var(--line);font-weight:400}
th{color:var(--dim);font-size:.85em}
"""


def style_sheet(look: Look) -> str:
    """The style sheet in a look."""
    colours = _LIGHT if look.theme == "light" else _DARK
    # Dark accents on dark ground would be hard to read.
    tint = look.accent if look.theme == "light" else f"color-mix(in srgb,{look.accent} 60%,white)"
    numbers = (
        f"--accent:{look.accent};--tint:{tint};--r:{look.radius}px;--fs:{15 * look.size:.2f}px;--gap:{look.gap}px;"
    )
    return f":root{{{colours}{numbers}}}body{{font-family:'{look.font}','{CHINESE_FONT}'}}{_CSS}"


def document(scene: Scene, body: str, clock: str) -> str:
    """A whole page. Phones and tablets get the system's bars with the time; the other kinds fill their screen."""
    if scene.device.kind in ("phone", "tablet"):
        body = _status_bar(scene, clock) + body + '<div class="nav"><i></i></div>'
    head = f'<meta charset="utf-8"><style>{style_sheet(scene.look)}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{body}</body></html>"


def _status_bar(scene: Scene, clock: str) -> str:
    charge = scene.dice.between(10, 100)
    signs = f'{icon_svg("wifi", "14px")}<span class="bat"><i style="width:{charge}%"></i></span>'
    return f'<div class="status"><span>{clock}</span><span class="r">{signs}</span></div>'
