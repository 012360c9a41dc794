"""Pages that are pictures or grids: launcher, map, shop, calendar, player, share sheet, tools."""

from html import escape

from autoglm_serving.screens import words
from autoglm_serving.screens.icons import ICONS, icon_svg
from autoglm_serving.screens.scene import Scene, button, field, icon, part
from autoglm_serving.screens.templates.pieces import bottom_tabs, swatch, top_bar

_APP_SIGNS = tuple(ICONS)
_WEEK = ("Mo Tu We Th Fr Sa Su", "一 二 三 四 五 六 日")
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def launcher(scene: Scene) -> str:
    """A home screen: apps with names under their icons."""
    dice = scene.dice
    columns = 4 if not scene.wide else 7
    apps = []
    for name in scene.words(words.APPS, columns * dice.between(3, 5)):
        hue = dice.below(360)
        tile = (
            f'<div style="width:54px;height:54px;border-radius:{10 + scene.look.radius}px;background:hsl({hue}'
            " 55% 45%);color:#fff;display:flex;align-items:center;"
            f'justify-content:center">{icon_svg(dice.pick(_APP_SIGNS), "28px")}</div>'
        )
        apps.append(
            part(
                "app",
                name,
                f'{tile}<div class="small" style="text-align:center">{escape(name)}</div>',
                css="col",
                style="align-items:center;gap:5px",
            )
        )
    hue = dice.below(360)
    shade = 22 if scene.look.theme == "dark" else 82
    back = f"background:linear-gradient(160deg,hsl({hue} 40% {shade}%),hsl({(hue + 60) % 360} 40% {shade - 8}%))"
    clock = f'<div style="font-size:3em;text-align:center;padding:26px 0 8px">{scene.clock()}</div>'
    line = f'<div style="padding:0 18px">{field(scene.say("Search apps", "搜索应用"), above=False)}</div>'
    return (
        f'<div class="main" style="{back}">{clock}{line}<div class="grid"'
        f' style="grid-template-columns:repeat({columns},1fr);row-gap:22px;'
        f'padding-top:26px">{"".join(apps)}</div></div>'
    )


def street_map(scene: Scene) -> str:
    """A street map with pins, a search line above and a card below."""
    dice = scene.dice
    width, height = scene.device.width, scene.device.height
    roads = []
    for _ in range(9):
        x, y, x2, y2 = dice.below(width), dice.below(height), dice.below(width), dice.below(height)
        roads.append(
            f'<path d="M{x} {-20} Q{x2} {y} {dice.below(width)} {height + 20}" stroke-width="{dice.pick((5, 8, 14))}"/>'
        )
        roads.append(
            f'<path d="M{-20} {y} Q{x} {y2} {width + 20} {dice.below(height)}" stroke-width="{dice.pick((5, 8, 14))}"/>'
        )
    dark = scene.look.theme == "dark"
    ground, street, water, park = (
        ("#20252c", "#3a424d", "#17344a", "#1f3a2c") if dark else ("#eae6dc", "#ffffff", "#a9d3ea", "#c5e3b5")
    )
    areas = "".join(
        (
            f'<ellipse cx="{dice.below(width)}" cy="{dice.below(height)}" rx="{dice.between(50, 160)}"'
            f' ry="{dice.between(40, 120)}" fill="{tint}"/>'
        )
        for tint in (water, park, park)
    )
    picture = (
        f'<svg width="{width}" height="{height}" style="position:absolute;left:0;top:0;background:{ground}'
        f'">{areas}<g stroke="{street}" fill="none">{"".join(roads)}</g></svg>'
    )
    names = scene.words(words.PLACES, 8)
    rows = (height - 420) // 4
    pins = []
    for number, name in enumerate(names[:-1]):
        left, top = (
            dice.between(10, max(12, width // 2 - 120)) + (number % 2) * (width // 2 - 20),
            90 + (number // 2) * rows + dice.between(0, max(1, rows - 60)),
        )
        sign = (
            f'<span style="color:{dice.pick(("#d93025", "#188038", "#1967d2", "#e37400"))}'
            f'">{icon_svg("pin", "24px")}</span>'
        )
        pins.append(
            part(
                "pin",
                name,
                (
                    f'{sign}<span class="small b" style="text-shadow:0 0 3px {ground},0 0 3px {ground}">{escape(name)}'
                    "</span>"
                ),
                css="flow",
                style=f"position:absolute;left:{left}px;top:{top}px;gap:2px;padding:4px;white-space:nowrap",
            )
        )
    line = (
        '<div class="flow" style="position:absolute;left:14px;right:14px;top:10px;'
        f'gap:6px">{field(scene.say("Search here", "搜索地点"), above=False)}</div>'
    )
    round_tool = "background:var(--card);border-radius:24px;padding:11px;box-shadow:0 1px 4px #0006"
    tools = "".join(icon(scene, name, style=round_tool) for name in ("layers", "pin"))
    routes = "".join(
        button(text, css=f"button {look}")
        for text, look in zip(
            scene.say("Directions,Nearby hotels", "路线,周边酒店").split(","), ("", "line"), strict=True
        )
    )
    card = (
        '<div class="card" style="position:absolute;left:0;right:0;bottom:0"><div class="b"'
        f' style="font-size:1.15em">{escape(names[-1])}</div><div class="dim small"'
        f' style="margin:4px 0 12px">{dice.between(1, 20)}.{dice.below(10)} km</div>'
        f'<div class="flow">{routes}</div></div>'
    )
    return (
        f'<div class="main">{picture}{"".join(pins)}{line}<div class="col" style="position:absolute;'
        f'right:14px;bottom:170px">{tools}</div>{card}</div>'
    )


def shop(scene: Scene) -> str:
    """Products in a grid, with prices."""
    dice = scene.dice
    columns = 2 if not scene.wide else 4
    cards = []
    for name in scene.words(words.PRODUCTS, columns * 4):
        picture = swatch(scene, f"height:{110 if not scene.wide else 130}px;border-radius:var(--r)")
        inner = (
            f'{picture}<div style="margin-top:6px">{escape(name)}</div><div class="b"'
            f' style="color:var(--tint)">{scene.money()}</div>'
        )
        cards.append(part("card", name, inner, css="card", style="padding:9px"))
    chips = "".join(
        part("chip", text, css="chip") for text in scene.words(words.CATEGORIES, 4 if not scene.wide else 8)
    )
    bar = (
        f'<div class="bar">{icon(scene, "menu")}{field(scene.say("Search products", "搜索商品"), above=False)}'
        f"{icon(scene, 'cart')}</div>"
    )
    names = scene.say("Home,Offers,Basket,Me", "首页,特价,购物篮,我").split(",")
    return (
        f'{bar}<div class="chips">{chips}</div><div class="main"><div class="scroll"><div class="grid"'
        f' style="grid-template-columns:repeat({columns},1fr);padding-top:4px">{"".join(cards)}</div>'
        f"</div></div>{bottom_tabs(names, ('home', 'star', 'cart', 'user'), dice.below(4))}"
    )


def calendar(scene: Scene) -> str:
    """A month, and what happens on the chosen day."""
    dice = scene.dice
    month = dice.below(12)
    title = scene.say(f"{_MONTHS[month]} {dice.between(2024, 2028)}", f"{dice.between(2024, 2028)}年{month + 1}月")
    head = "".join(f'<div class="dim small" style="text-align:center">{day}</div>' for day in scene.say(*_WEEK).split())
    chosen, first = dice.between(1, 28), dice.below(7)
    days = "<div></div>" * first
    for day in range(1, dice.between(28, 31) + 1):
        look = "background:var(--accent);color:#fff" if day == chosen else ""
        days += part(
            "day",
            str(day),
            css="",
            style=f"text-align:center;padding:9px 0;border-radius:20px;{look}",
            state="selected" if day == chosen else "",
        )
    plans = "".join(
        part(
            "row",
            name,
            (
                f'<div style="width:4px;height:32px;background:hsl({dice.below(360)} 60% 50%)"></div>'
                f'<div class="g"><div>{escape(name)}</div><div class="s">{scene.clock()}</div></div>'
            ),
            css="row",
        )
        for name in scene.words(words.ALARMS, dice.between(2, 4))
    )
    bar = (
        f'<div class="bar">{icon(scene, "menu")}<div class="t">{title}</div>{icon(scene, "search")}'
        f"{icon(scene, 'calendar')}</div>"
    )
    width = "max-width:640px;width:100%;align-self:center" if scene.wide else ""
    fab = part("icon", scene.icon_name("add"), icon_svg("add"), css="fab")
    return (
        f'{bar}<div class="main"><div class="grid" style="grid-template-columns:repeat(7,1fr);gap:4px;'
        f'{width}">{head}{days}</div><div class="scroll">{plans}</div>{fab}</div>'
    )


def player(scene: Scene) -> str:
    """A song being played."""
    dice = scene.dice
    song, following = scene.words(words.SONGS, 2)
    done = dice.between(5, 95)
    side = "min(70vw,42vh)"
    cover = swatch(scene, f"width:{side};height:{side};border-radius:calc(var(--r)*2);align-self:center")
    middle = "pause" if dice.chance(50) else "play"
    controls = "".join(icon(scene, name) for name in ("shuffle", "previous"))
    controls += icon(scene, middle, style="background:var(--accent);color:#fff;border-radius:50%;padding:18px")
    controls += "".join(icon(scene, name) for name in ("next", "repeat"))
    track = (
        '<div style="height:6px;border-radius:3px;background:var(--soft)"><div style="height:6px;'
        f'border-radius:3px;width:{done}%;background:var(--accent)"></div></div>'
    )
    times = (
        f'<div class="flow dim small" style="justify-content:space-between"><span>{dice.between(0, 2)}'
        f":{dice.between(10, 59)}</span><span>{dice.between(3, 6)}:{dice.between(10, 59)}</span></div>"
    )
    more = "".join(
        part("button", text, css="button soft small")
        for text in scene.say("Lyrics,Queue,Timer off", "歌词,播放列表,定时关闭").split(",")
    )
    title = (
        f'<div class="flow"><div class="grow"><div class="big">{escape(song)}</div>'
        f'<div class="dim">{escape(dice.pick(words.PEOPLE)[0 if scene.language == "en" else 1])}</div>'
        f"</div>{icon(scene, 'heart')}</div>"
    )
    coming = part(
        "row",
        following,
        (
            f'<div class="g"><div class="s">{scene.say("Up next", "即将播放")}</div><div>{escape(following)}</div>'
            f"</div>{icon_svg('chevron')}"
        ),
        css="card flow",
    )
    bar = top_bar(scene, scene.say("Now playing", "正在播放"), tools=("share", "more"))
    return (
        f'{bar}<div class="main"><div class="col pad" style="flex:1;justify-content:space-around;'
        f'max-width:640px;width:100%;align-self:center">{cover}{title}<div class="col"'
        f' style="gap:6px">{track}{times}</div><div class="flow"'
        f' style="justify-content:space-between">{controls}</div><div class="flow"'
        f' style="justify-content:center">{more}</div>{coming}</div></div>'
    )


def share_sheet(scene: Scene) -> str:
    """A picture, and a sheet from below with places to send it to."""
    dice = scene.dice
    people = "".join(
        part(
            "target",
            name,
            (
                f'<div class="avatar" style="background:hsl({dice.below(360)} 45% 45%)">{escape(name[0])}</div>'
                f'<div class="small" style="text-align:center">{escape(name)}</div>'
            ),
            css="col",
            style="align-items:center;gap:4px;flex:1;min-width:0",
        )
        for name in scene.words(words.PEOPLE, 4)
    )
    acts = "".join(
        part(
            "row",
            text,
            (
                f"{icon_svg(dice.pick(('download', 'print', 'folder', 'star', 'edit')))}"
                f'<div class="g">{escape(text)}</div>'
            ),
            css="row",
        )
        for text in scene.words(words.ACTIONS, dice.between(4, 6))
    )
    stop = button(scene.say("Close sheet", "收起"), css="button soft")
    sheet = (
        '<div style="position:absolute;left:0;right:0;bottom:0;background:var(--card);'
        'border-radius:calc(var(--r)*1.5) calc(var(--r)*1.5) 0 0;padding:16px" class="col">'
        f'<div class="b">{scene.say("Send to", "发送给")}</div><div class="flow"'
        f' style="align-items:flex-start">{people}</div><div>{acts}</div>{stop}</div>'
    )
    photo = swatch(scene, "position:absolute;inset:0")
    return f'<div class="main">{photo}</div><div class="shade">{sheet}</div>'


def tools(scene: Scene) -> str:
    """Tools to choose from, all of them icons without a word: plain, on plates and in circles, large and small."""
    dice, wide = scene.dice, scene.wide
    bar = top_bar(scene, scene.say("Arrange tools", "排列工具"), tools=("check",))
    lead, check = scene.icon_name("back"), scene.icon_name("check")
    names = [name for name in dice.some(tuple(ICONS), len(ICONS)) if scene.icon_name(name) not in (lead, check)]
    titles = ["Shown", "Hidden", "Suggested"] if scene.language == "en" else ["已显示", "已隐藏", "推荐"]
    sections = []
    for title in titles[: dice.between(2, 3)]:
        columns, rows = dice.between(4, 6) * (2 if wide else 1), dice.between(2, 4)
        here, names = names[: columns * rows], names[columns * rows :]
        size, plate = f"{dice.between(18, 34)}px", dice.pick(_PLATES)
        icons = "".join(
            part(
                "icon",
                scene.icon_name(name),
                icon_svg(name, size),
                css="icon",
                style=f"justify-self:center;{plate.format(hue=dice.below(360))}",
            )
            for name in here
        )
        sections.append(
            f'<div class="pad b">{title}</div><div class="grid" style="grid-template-columns:repeat({columns},1fr);'
            f'gap:{dice.between(4, 18)}px">{icons}</div>'
        )
    return f'{bar}<div class="main"><div class="col">{"".join(sections)}</div></div>'


_PLATES = (
    "",
    "",
    "background:var(--soft);border-radius:var(--r)",
    "background:var(--accent);color:#fff;border-radius:50%",
    "background:hsl({hue} 50% 42%);color:#fff;border-radius:12px",
    "border:1px solid var(--soft);border-radius:50%",
    "color:var(--accent)",
)
"""What is behind an icon."""
