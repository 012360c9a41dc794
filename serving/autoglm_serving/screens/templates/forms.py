"""Pages to fill in: forms, login, bank transfer, keyboards, dialogs."""

from html import escape

from autoglm_serving.screens import words
from autoglm_serving.screens.icons import icon_svg
from autoglm_serving.screens.scene import Scene, button, checkbox, field, icon, part
from autoglm_serving.screens.templates.pieces import avatar, top_bar

_LETTERS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def form(scene: Scene) -> str:
    """Labelled fields and two buttons."""
    dice = scene.dice
    names = scene.words(words.FIELDS, dice.between(4, 7))
    focused = dice.below(len(names)) if dice.chance(35) else -1
    above = dice.chance(70)
    hint = scene.say("Required", "必填")
    fields = [field(name, hint=hint, focused=number == focused, above=above) for number, name in enumerate(names)]
    columns = "1fr 1fr" if scene.wide else "1fr"
    first, second = scene.words(words.ACTIONS, 2)
    order = [button(first), button(second, css="button line")]
    consent = checkbox(scene.say("I agree to the terms", "我同意服务条款"), dice.chance(30))
    bar = top_bar(scene, scene.say("Your details", "填写资料"), lead=dice.pick(("back", "close")))
    return (
        f'{bar}<div class="main"><div class="grid" style="grid-template-columns:{columns}">{"".join(fields)}</div>'
        f'{consent}<div class="flow pad {"end" if scene.wide else ""}">{"".join(order)}</div></div>'
    )


def login(scene: Scene) -> str:
    """A brand, two fields, a button and links."""
    dice = scene.dice
    brand = scene.word(words.APPS)
    user = scene.say("User name", "用户名")
    secret = scene.say("Password", "密码")
    focused = dice.pick((user, secret, ""))
    above = dice.chance(50)
    links = "".join(
        part("link", text, css="link")
        for text in scene.say("Forgot password?,Create account", "忘记密码,注册账号").split(",")
    )
    enter = scene.say(dice.pick(("Sign in", "Log in")), "登录")
    inner = (
        f'<div class="lead" style="width:64px;height:64px;align-self:center">{icon_svg("user", "36px")}</div>'
        f'<div class="big" style="text-align:center">{escape(brand)}</div>'
        f"{field(user, focused=focused == user, above=above)}{field(secret, focused=focused == secret, above=above)}"
        f"{checkbox(scene.say('Remember me', '记住我'), dice.chance(50))}{button(enter)}"
        f'<div class="flow" style="justify-content:space-between">{links}</div>'
    )
    place = dice.pick(("center", "flex-start")) if not scene.wide else "center"
    side = icon(scene, "help", style="position:absolute;right:12px;top:8px")
    return (
        f'<div class="main" style="align-items:center;justify-content:{place};padding:32px 20px">{side}'
        f'<div class="col" style="width:min(100%,400px)">{inner}</div></div>'
    )


def transfer(scene: Scene) -> str:
    """A bank transfer with an amount and a number pad."""
    dice = scene.dice
    person = scene.word(words.PEOPLE)
    amount = str(dice.between(10, 99999))
    keys = [*"123456789", ".", "0"]
    pad = "".join(part("key", key, css="button soft", style="font-size:1.3em;padding:14px") for key in keys)
    pad += part(
        "key",
        scene.icon_name("backspace"),
        icon_svg("backspace"),
        css="button soft",
        style="display:flex;justify-content:center;align-items:center",
    )
    quick = "".join(part("chip", f"+{value}", css="chip") for value in (50, 100, 500))
    bar = top_bar(scene, scene.say("Transfer", "转账"), tools=("help",))
    return (
        f'{bar}<div class="main" style="align-items:center"><div class="col pad" style="width:100%;'
        'max-width:560px;flex:1">'
        f'<div class="card flow">{avatar(scene, person)}<div class="grow"><div class="b">{escape(person)}</div>'
        f'<div class="dim small">**** {dice.between(1000, 9999)}</div>'
        f"</div>{part('link', scene.say('Change payee', '更换收款人'), css='link')}</div>"
        f'<div class="card"><div class="dim">{scene.say("Amount", "金额")}</div><div style="font-size:2.4em;'
        f'font-weight:700">{scene.say("$", "¥")} {amount}</div>'
        f'<div class="flow" style="margin-top:8px">{quick}</div>'
        f"</div>{field(scene.say('Reference', '附言'), above=False)}"
        '<div style="flex:1"></div><div class="grid" style="grid-template-columns:repeat(3,1fr);'
        f'padding:0;gap:8px">{pad}</div>'
        f"{button(scene.say('Send money', '立即转账'))}</div></div>"
    )


def keyboard(scene: Scene) -> str:
    """A note being written, the letters of the keyboard below it."""
    dice = scene.dice
    title = scene.word(words.SUBJECTS)
    lines = "".join(f"<p>{escape(text)}</p>" for text in scene.words(words.CHATS, dice.between(2, 5)))
    rows = []
    for number, letters in enumerate(_LETTERS):
        keys = [part("key", each, css="button soft grow", style=_KEY) for each in letters]
        if number == 2:
            keys.append(
                part(
                    "key",
                    scene.icon_name("backspace"),
                    icon_svg("backspace"),
                    css="button soft",
                    style=_KEY + ";width:15%",
                )
            )
        rows.append(f'<div class="flow" style="gap:5px;padding:0 {number * 10}px">{"".join(keys)}</div>')
    last = "".join(
        part("key", text, css="button soft", style=f"{_KEY};flex:{grow}")
        for text, grow in (("123", 1), (scene.say("Space", "空格"), 4), (scene.say("Enter", "换行"), 2))
    )
    rows.append(f'<div class="flow" style="gap:5px">{last}</div>')
    board = f'<div class="col" style="gap:9px;padding:10px 6px;background:var(--line)">{"".join(rows)}</div>'
    bar = top_bar(scene, scene.say("Note", "便笺"), tools=("share", "check"))
    writing = part(
        "field",
        scene.say("Note text", "正文"),
        f'{lines}<span class="caret"></span>',
        css="grow pad",
        state="focused",
        style="line-height:1.7",
    )
    return (
        f'{bar}<div class="main"><div class="pad big" style="padding-bottom:0">{escape(title)}'
        f"</div>{writing}{board}</div>"
    )


_KEY = "padding:11px 0;min-width:0;display:flex;justify-content:center;font-weight:400"


def confirm(scene: Scene) -> str:
    """A dialog above a dimmed list."""
    dice = scene.dice
    behind = "".join(part("row", name, css="row") for name in scene.words(words.FOLDERS, 10))
    question = scene.word(words.QUESTIONS)
    yes, no, *rest = scene.words(words.ACTIONS, dice.pick((2, 2, 3)))
    buttons = [button(no, css="button plain"), button(yes)] + [button(text, css="button line") for text in rest]
    stacked = dice.chance(40)
    layout = "col" if stacked else "flow end"
    note = scene.say("You can change this later.", "之后可以更改。")
    keep = checkbox(scene.say("Do not ask again", "不再询问"), dice.chance(20)) if dice.chance(50) else ""
    box = (
        f'<div class="dialog"><div class="b" style="font-size:1.15em">{escape(question)}</div>'
        f'<div class="dim">{note}</div>'
        f'{keep}<div class="{layout}" style="flex-wrap:wrap">{"".join(buttons)}</div></div>'
    )
    bar = top_bar(scene, scene.say("Library", "资料库"), lead="menu", tools=("search",))
    return f'{bar}<div class="main">{behind}</div><div class="shade">{box}</div>'


def conversation(scene: Scene) -> str:
    """One conversation: bubbles, and a line to write in."""
    dice = scene.dice
    person = scene.word(words.PEOPLE)
    bubbles = []
    for text in scene.words(words.CHATS, dice.between(5, 9)):
        mine = dice.chance(50)
        look = (
            "background:var(--accent);color:#fff;align-self:flex-end"
            if mine
            else "background:var(--card);align-self:flex-start"
        )
        bubbles.append(f'<div style="{look};padding:9px 13px;border-radius:14px;max-width:76%">{escape(text)}</div>')
    line = field(scene.say("Message", "输入消息"), focused=dice.chance(40), above=False)
    bar = top_bar(scene, person, tools=("phone", "video", "more"))
    foot = (
        f'<div class="flow" style="padding:8px;gap:4px;background:var(--card)">{icon(scene, "add")}{line}'
        f"{icon(scene, 'smile')}{icon(scene, 'send')}</div>"
    )
    return (
        f'{bar}<div class="main"><div class="scroll col pad"'
        f' style="justify-content:flex-end">{"".join(bubbles)}</div>{foot}</div>'
    )
