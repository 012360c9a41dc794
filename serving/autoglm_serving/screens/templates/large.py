"""Pages for large screens: file manager, dashboard, kiosk order, kiosk numbers."""

from html import escape

from autoglm_serving.screens import words
from autoglm_serving.screens.icons import icon_svg
from autoglm_serving.screens.scene import Scene, button, field, icon, part
from autoglm_serving.screens.templates.pieces import swatch, top_bar


def files(scene: Scene) -> str:
    """A file manager: places at the side, files in a table."""
    dice = scene.dice
    folders = scene.words(words.FOLDERS, 8)
    side = "".join(
        part(
            "row",
            name,
            f'{icon_svg("folder")}<div class="g">{escape(name)}</div>',
            css="row",
            style="min-height:42px;padding:8px 14px;border:0",
        )
        for name in folders
    )
    rows = []
    for name in scene.words(words.FILES, 18):
        cells = f"<td>{escape(name)}</td>"
        cells += (
            (
                f'<td class="dim">{dice.between(1, 28)}/{dice.between(1, 12)}/2026</td>'
                f'<td class="dim">{dice.between(1, 900)} KB</td>'
            )
            if scene.wide
            else f'<td class="dim">{dice.between(1, 900)} KB</td>'
        )
        rows.append(f'<tr data-role="row" data-text="{escape(name)}">{cells}</tr>')
    heads = scene.say("Name,Modified,Size", "名称,修改日期,大小").split(",")
    heads = heads if scene.wide else [heads[0], heads[2]]
    table = f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}</table>"
    tools = "".join(icon(scene, name) for name in ("add", "print", "refresh", "trash"))
    bar = (
        f'<div class="bar" style="border-bottom:1px solid var(--line)">{icon(scene, "back")}'
        f"{field(scene.say('Find files', '查找文件'), above=False)}{tools}</div>"
    )
    sidebar = f'<div style="width:220px;border-right:1px solid var(--line)">{side}</div>' if scene.wide else ""
    return f'{bar}<div class="main" style="flex-direction:row">{sidebar}<div class="scroll">{table}</div></div>'


def dashboard(scene: Scene) -> str:
    """A business application: sections, numbers, a chart and a table."""
    dice = scene.dice
    sections = scene.words(words.SECTIONS, 9 if scene.wide else 5)
    chosen = dice.below(len(sections))
    nav = "".join(
        part(
            "tab",
            name,
            css="row",
            style="border:0;min-height:44px;"
            + ("background:var(--soft);color:var(--tint)" if number == chosen else ""),
            state="selected" if number == chosen else "",
        )
        for number, name in enumerate(sections)
    )
    cards = "".join(
        (
            f'<div class="card"><div class="dim small">{escape(name)}</div>'
            f'<div class="big">{dice.between(10, 9999)}</div></div>'
        )
        for name in scene.say("Revenue,Visitors,Conversion,Refund rate", "收入,访客,转化率,退款率").split(",")[
            : 4 if scene.wide else 2
        ]
    )
    heights = [dice.between(15, 100) for _ in range(12)]
    bars = "".join(
        (f'<rect x="{number * 26 + 4}" y="{110 - height}" width="18" height="{height}" fill="var(--accent)"/>')
        for number, height in enumerate(heights)
    )
    chart = (
        f'<div class="card"><svg viewBox="0 0 316 112" width="100%" height="{170 if scene.wide else 110}"'
        f' preserveAspectRatio="none">{bars}</svg></div>'
    )
    people = "".join(
        (
            f'<tr data-role="row" data-text="{escape(name)}"><td>{escape(name)}</td><td>{scene.money(900)}'
            f'</td><td class="dim">{scene.clock()}</td></tr>'
        )
        for name in scene.words(words.PEOPLE, 8)
    )
    acts = "".join(
        button(text, css=f"button {look}")
        for text, look in zip(scene.words(words.ACTIONS, 2), ("line", ""), strict=True)
    )
    main = (
        '<div class="grow col" style="padding:16px;overflow:hidden"><div class="flow">'
        f'<div class="big grow">{escape(sections[chosen])}</div>{acts}</div><div class="grid"'
        f' style="grid-template-columns:repeat({4 if scene.wide else 2},1fr);padding:0">{cards}'
        f'</div>{chart}<div class="card scroll" style="padding:0"><table>{people}</table></div></div>'
    )
    bar = top_bar(scene, scene.say("Console", "管理后台"), lead="menu", tools=("search", "bell", "user"))
    if scene.wide:
        return (
            f'{bar}<div class="main" style="flex-direction:row"><div style="width:200px;'
            f'background:var(--card);border-right:1px solid var(--line)">{nav}</div>{main}</div>'
        )
    tabs = nav.replace('class="row"', 'class="tab"')
    return f'{bar}<div class="tabs">{tabs}</div><div class="main">{main}</div>'


def order(scene: Scene) -> str:
    """A restaurant's kiosk: categories, dishes, the order so far."""
    dice = scene.dice
    categories = scene.words(words.CATEGORIES, 6)
    chosen = dice.below(len(categories))
    side = "".join(
        part(
            "tab",
            name,
            css="",
            style="padding:22px 10px;text-align:center;border-bottom:1px solid var(--line);"
            + ("background:var(--accent);color:#fff" if number == chosen else ""),
            state="selected" if number == chosen else "",
        )
        for number, name in enumerate(categories)
    )
    columns = 2 if scene.device.width < 700 else 3 if scene.device.width < 1000 else 4
    dishes = "".join(
        part(
            "card",
            name,
            (
                f'{swatch(scene, "height:110px;border-radius:var(--r)")}<div class="b"'
                f' style="margin-top:8px">{escape(name)}</div><div class="dim">{scene.money(40)}</div>'
            ),
            css="card",
            style="padding:10px;text-align:center",
        )
        for name in scene.words(words.DISHES, columns * 4)
    )
    total = (
        f'<div class="grow"><div class="dim">{dice.between(1, 9)} {scene.say("items", "件")}</div>'
        f'<div class="big">{scene.money(200)}</div></div>'
    )
    ends = f"{button(scene.say('Start over', '重新开始'), css='button line')}{button(scene.say('Check out', '去结账'))}"
    bar = (
        f'<div class="bar solid"><div class="t">{scene.say("Order here", "自助点餐")}'
        f"</div>{icon(scene, 'help')}{button(scene.say('中文', 'English'), css='chip')}</div>"
    )
    return (
        f'{bar}<div class="main" style="flex-direction:row">'
        f'<div style="width:{110 if scene.device.width < 700 else 150}px;background:var(--card)">{side}'
        f'</div><div class="scroll"><div class="grid" style="grid-template-columns:repeat({columns}'
        f',1fr)">{dishes}</div></div></div><div class="flow pad" style="background:var(--card);'
        f'border-top:1px solid var(--line)">{total}{ends}</div>'
    )
