"""The templates of the test split. No training page is made by any of them."""

from html import escape

from autoglm_serving.screens import words
from autoglm_serving.screens.icons import icon_svg
from autoglm_serving.screens.scene import ACCENTS, Scene, button, checkbox, field, icon, part
from autoglm_serving.screens.templates.pieces import swatch


def quick_panel(scene: Scene) -> str:
    """Tiles that switch things, pulled down over the screen."""
    dice = scene.dice
    columns = 3 if not scene.wide else 5
    names = scene.words(words.SETTINGS, columns * 3)
    lit = dice.below(len(names)) if dice.chance(45) else -1
    tiles = []
    for number, name in enumerate(names):
        on = number == lit if lit >= 0 else dice.chance(35)
        look = "background:var(--accent);color:#fff" if on else "background:var(--soft)"
        inner = (
            f"{icon_svg(dice.pick(('wifi', 'moon', 'pin', 'bell', 'lock', 'refresh', 'layers')))}"
            f'<div class="small" style="text-align:center">{escape(name)}</div>'
        )
        tiles.append(
            part(
                "toggle",
                name,
                inner,
                css="col",
                style=f"{look};align-items:center;gap:7px;padding:14px 4px;border-radius:calc(var(--r) + 6px)",
                state="on" if on else "off",
            )
        )
    level = dice.between(10, 90)
    slider = (
        '<div style="height:34px;border-radius:17px;background:var(--soft);overflow:hidden;margin:4px 0">'
        f'<div style="height:34px;width:{level}%;background:var(--accent)"></div></div>'
    )
    note = "".join(
        part(
            "card", text, f'<div class="dim small">{scene.clock()}</div><div class="b">{escape(text)}</div>', css="card"
        )
        for text in scene.words(words.SUBJECTS, dice.between(2, 4))
    )
    tools = "".join(icon(scene, name) for name in ("edit", "gear", "user"))
    clear = button(scene.say("Clear all", "全部清除"), css="button plain")
    return (
        '<div class="main pad col" style="max-width:900px;width:100%;align-self:center">'
        f'<div class="flow"><div class="big grow">{scene.clock()}</div>{tools}</div><div class="grid"'
        f' style="grid-template-columns:repeat({columns},1fr);padding:0">{"".join(tiles)}</div>{slider}'
        f'{note}<div class="flow end">{clear}</div></div>'
    )


def results(scene: Scene) -> str:
    """What a search found."""
    dice = scene.dice
    asked = scene.word(words.PRODUCTS)
    found = []
    for title in scene.words(words.HEADLINES, 9):
        site = f"www.{dice.pick(('river', 'daily', 'open', 'maple', 'north'))}{dice.between(10, 99)}.example"
        link = part("link", title, css="b", style="color:var(--tint);font-size:1.08em;padding:3px 0;width:fit-content")
        found.append(
            f'<div style="padding:11px 16px"><div class="dim small">{site}</div>{link}'
            f'<div class="small dim">{escape(dice.pick(words.CHATS)[0 if scene.language == "en" else 1])} ...'
            "</div></div>"
        )
    kinds = scene.say("All,Pictures,Clips,Places", "综合,图集,短片,地点").split(",")
    chips = "".join(part("chip", name, css=f"chip {'on' if number == 0 else ''}") for number, name in enumerate(kinds))
    line = part("field", scene.say("Search box", "搜索框"), f"{escape(asked)}", css="input")
    pages = "".join(part("link", str(number), css="button soft") for number in range(1, 5))
    return (
        f'<div class="bar">{icon(scene, "back")}{line}{icon(scene, "mic")}{icon(scene, "camera")}</div>'
        f'<div class="chips">{chips}</div><div class="main"><div class="scroll"'
        f' style="max-width:820px">{"".join(found)}</div><div class="flow pad"'
        f' style="justify-content:center">{pages}'
        f"{button(scene.say('More results', '下一页'), css='button line')}</div></div>"
    )


def booking(scene: Scene) -> str:
    """Where from, where to, when and how many."""
    dice = scene.dice
    start, end = scene.words(words.CITIES, 2)
    here, there = scene.say("From", "出发地"), scene.say("To", "目的地")
    modes = scene.say("Return,One way,Several stops", "往返,单程,多程").split(",")
    chosen = dice.below(3)
    tabs = "".join(
        part(
            "tab",
            name,
            css=f"tab grow {'on' if number == chosen else ''}",
            style="text-align:center",
            state="selected" if number == chosen else "",
        )
        for number, name in enumerate(modes)
    )
    filled = dice.chance(50)
    fields = field(here, start if filled else "", hint=scene.say("City", "城市")) + field(
        there, end if filled else "", hint=scene.say("City", "城市"), focused=dice.chance(40)
    )
    leaving = scene.say("Departure date", "出发日期")
    day = f'<span class="dim grow">{leaving}</span><span>{dice.between(1, 28)}/{dice.between(1, 12)}</span>'
    date = part("picker", leaving, day, css="input")
    minus = part("button", scene.say("Fewer passengers", "减少乘客"), "−", css="button soft")
    plus = part("button", scene.say("More passengers", "增加乘客"), "+", css="button soft")
    count = (
        f'<div class="flow"><div class="grow">{scene.say("Passengers", "乘客人数")}</div>{minus}'
        f'<div class="b">{dice.between(1, 6)}</div>{plus}</div>'
    )
    direct = checkbox(scene.say("Direct only", "仅看直达"), dice.chance(40))
    find = button(scene.say("Find trips", "查询车次"))
    offers = "".join(
        part(
            "card",
            city,
            (
                f'{swatch(scene, "height:70px;border-radius:var(--r)")}<div class="flow"'
                f' style="justify-content:space-between;margin-top:6px"><span>{escape(city)}</span>'
                f'<span class="b">{scene.money(900)}</span></div>'
            ),
            css="card",
            style="padding:8px",
        )
        for city in scene.words(words.CITIES, 4)
    )
    return (
        '<div class="main" style="align-items:center"><div style="background:var(--accent);color:#fff;width:100%;'
        f'padding:20px 16px 60px"><div class="flow">{icon(scene, "menu")}<div class="big grow">'
        f"{scene.say('Plan a trip', '出行预订')}</div>{icon(scene, 'bell')}</div></div>"
        '<div class="card col" style="margin-top:-44px;width:92%;max-width:620px">'
        f'<div class="flow" style="gap:0">{tabs}</div>{fields}{date}{count}{direct}{find}</div>'
        f'<div class="grid" style="grid-template-columns:1fr 1fr;width:100%;max-width:650px">{offers}'
        "</div></div>"
    )


def dialer(scene: Scene) -> str:
    """Numbers to dial, recent calls above them."""
    dice = scene.dice
    calls = "".join(
        part(
            "row",
            name,
            (
                f'<div class="g"><div>{escape(name)}</div><div class="s">{scene.clock()}</div></div>'
                f'<span class="dim">{icon_svg("phone", "1.2em")}</span>'
            ),
            css="row",
        )
        for name in scene.words(words.PEOPLE, 5 if not scene.wide else 4)
    )
    keys = "".join(
        part(
            "key",
            each,
            css="",
            style="border-radius:40px;background:var(--soft);padding:13px 0;font-size:1.4em;text-align:center",
        )
        for each in "123456789*0#"
    )
    number = "".join(str(dice.below(10)) for _ in range(dice.between(3, 11)))
    shown = (
        f'<div class="flow"><div class="grow big" style="text-align:center">{number}'
        f"</div>{icon(scene, 'backspace')}</div>"
    )
    dial = part(
        "icon",
        scene.icon_name("phone"),
        icon_svg("phone", "2em"),
        css="",
        style="align-self:center;border-radius:40px;background:#1e8e3e;color:#fff;padding:16px 28px",
    )
    modes = "".join(
        part("tab", name, css=f"tab grow {'on' if place == 0 else ''}", style="text-align:center")
        for place, name in enumerate(scene.say("Recents,Voicemail,Blocked", "通话记录,语音信箱,黑名单").split(","))
    )
    return (
        f'<div class="tabs">{modes}</div><div class="main" style="max-width:560px;width:100%;'
        f'align-self:center"><div class="scroll">{calls}</div><div class="col pad">{shown}'
        f'<div class="grid" style="grid-template-columns:repeat(3,1fr);padding:0">{keys}</div>{dial}</div>'
        "</div>"
    )


def albums(scene: Scene) -> str:
    """Albums with covers and numbers of pictures."""
    dice = scene.dice
    columns = 2 if not scene.wide else 4
    tall = (scene.device.width / columns) * 0.62
    items = "".join(
        part(
            "card",
            name,
            (
                f"{swatch(scene, f'height:{tall:.0f}px;border-radius:var(--r)')}"
                f'<div style="margin-top:5px">{escape(name)}</div><div class="dim small">{dice.between(3, 900)}'
                "</div>"
            ),
        )
        for name in scene.words(words.ALBUMS, columns * 4)
    )
    pick, sort = scene.say("Select", "选择"), scene.say("Sort by", "排序")
    bar = (
        '<div class="flow pad"><div class="grow" style="font-size:1.8em;'
        f'font-weight:700">{scene.say("Albums", "影集")}</div>{part("link", pick, css="link")}'
        f"{part('link', sort, css='link')}{icon(scene, 'add')}</div>"
    )
    places = "".join(
        part("tab", name, css="tab grow", style="text-align:center" + (";color:var(--tint)" if place == 1 else ""))
        for place, name in enumerate(
            scene.say("Library view,Collections,Memories,Find", "图库,影集列表,回忆,查找").split(",")
        )
    )
    return (
        f'{bar}<div class="main"><div class="scroll"><div class="grid"'
        f' style="grid-template-columns:repeat({columns},1fr);padding-top:0">{items}</div></div></div>'
        f'<div class="flow" style="gap:0;border-top:1px solid var(--line)">{places}</div>'
    )


def basket(scene: Scene) -> str:
    """What is to be bought, how many of each, and the way to pay."""
    dice = scene.dice
    lines = []
    for name in scene.words(words.PRODUCTS, dice.between(3, 5)):
        title = part("link", name, css="b")
        lines.append(
            f'<div class="card flow">{swatch(scene, "width:64px;height:64px;border-radius:var(--r);flex:none")}'
            f'<div class="grow">{title}<div style="color:var(--tint);margin-top:4px">{scene.money()}</div>'
            f'</div><div class="dim">x {dice.between(1, 5)}</div></div>'
        )
    ways = scene.say("Credit card,Bank transfer,Gift voucher,Pay on delivery", "信用卡,银行转账,礼品券,货到付款").split(
        ","
    )
    chosen = dice.below(len(ways))
    radios = "".join(checkbox(name, number == chosen, role="radio") for number, name in enumerate(ways))
    code = (
        f'<div class="flow">{field(scene.say("Coupon", "优惠码"), focused=dice.chance(40), above=False)}'
        f"{button(scene.say('Redeem', '兑换'), css='button line')}</div>"
    )
    pay = (
        '<div class="flow pad" style="border-top:1px solid var(--line)"><div class="grow">'
        f'<div class="dim small">{scene.say("Total", "合计")}</div><div class="big">{scene.money(999)}</div>'
        f"</div>{button(scene.say('Pay now', '立即支付'))}</div>"
    )
    left, right = (
        f'<div class="col grow">{"".join(lines)}</div>',
        f'<div class="col grow"><div class="card" style="padding:4px">{radios}</div>{code}</div>',
    )
    layout = "flow" if scene.wide else "col"
    return (
        f'<div class="flow" style="padding:12px 8px">{icon(scene, "close")}'
        f'<div class="big grow">{scene.say("Basket", "购物清单")}</div>{icon(scene, "trash")}'
        f'{icon(scene, "heart")}</div><div class="main"><div class="{layout}" style="padding:0 14px;'
        f'align-items:stretch">{left}{right}</div></div>{pay}'
    )


def counter(scene: Scene) -> str:
    """A kiosk in a hall: large buttons for services."""
    dice = scene.dice
    columns = 2 if scene.device.width < 1000 else 3
    tiles = "".join(
        part(
            "button",
            name,
            (
                f"{icon_svg(dice.pick(('user', 'calendar', 'print', 'help', 'lock', 'folder', 'cart')), '40px')}"
                f'<div style="font-size:1.25em">{escape(name)}</div>'
            ),
            css="col",
            style=(
                f"background:{dice.pick(ACCENTS)};color:#fff;align-items:center;justify-content:center;"
                "border-radius:calc(var(--r)*1.5);padding:26px 8px;text-align:center"
            ),
        )
        for name in scene.words(words.SERVICES, columns * dice.between(3, 4))
    )
    tongues = "".join(
        part("button", name, css="button line")
        for name in ("English", "中文", "Deutsch", "Español")[: 4 if scene.wide else 3]
    )
    hall = scene.say("Welcome. What can we do for you?", "欢迎光临，请选择业务")
    foot = (
        f'<div class="flow pad">{tongues}<div class="grow">'
        f"</div>{button(scene.say('Call staff', '呼叫工作人员'), css='button soft')}</div>"
    )
    return (
        f'<div style="padding:34px 20px 10px;font-size:1.7em;font-weight:700;text-align:center">{hall}'
        f'</div><div class="main"><div class="grid" style="grid-template-columns:repeat({columns},1fr);'
        f'flex:1;grid-auto-rows:1fr">{tiles}</div></div>{foot}'
    )


def board(scene: Scene) -> str:
    """Tasks in columns, with a menu open."""
    dice = scene.dice
    titles = scene.say("To do,In progress,Waiting,Finished", "待办,进行中,等待中,已结束").split(",")[
        : 4 if scene.wide else 2
    ]
    columns = []
    for title in titles:
        cards = "".join(
            part(
                "card",
                name,
                (
                    f'<div>{escape(name)}</div><div class="dim small" style="margin-top:6px">#{dice.between(100, 999)}'
                    "</div>"
                ),
                css="card",
                style=f"padding:11px;border-left:4px solid {dice.pick(ACCENTS)}",
            )
            for name in scene.words(words.CHORES, dice.between(2, 4))
        )
        columns.append(
            '<div class="col grow" style="background:var(--soft);padding:10px;border-radius:var(--r);'
            f'gap:9px"><div class="b">{title}</div>{cards}</div>'
        )
    menus = "".join(
        part("menu", name, css="link") for name in scene.say("File,View,Window", "文件,视图,窗口").split(",")
    )
    listed = "".join(
        part("item", name, css="row", style="min-height:40px;padding:8px 16px")
        for name in scene.words(words.ACTIONS, dice.between(3, 6))
    )
    opened = (
        (
            '<div class="card" style="position:absolute;left:10px;top:4px;padding:0;min-width:190px;'
            f'box-shadow:0 4px 14px #0006;z-index:3">{listed}</div>'
        )
        if dice.chance(40)
        else ""
    )
    tools = "".join(icon(scene, name) for name in ("filter", "search", "user"))
    return (
        f'<div class="flow" style="padding:4px 8px;border-bottom:1px solid var(--line)">{menus}'
        f'<div class="grow"></div>{tools}</div><div class="main">{opened}<div class="flow pad"'
        f' style="align-items:flex-start;height:100%">{"".join(columns)}</div></div>'
    )
