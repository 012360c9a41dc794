"""The special tokens of GLM-4.1V, and the text that AutoGLM-Tiny's tokenizer is trained on.

Names and order of the special tokens follow GLM-4.1V, where they are the last entries of the vocabulary (ids 151329 to
151348); in AutoGLM-Tiny they are the last entries of a vocabulary of 4,032.
"""

import re

from autoglm_serving.screens import words
from autoglm_serving.screens.tasks import instruction_frames

END_OF_TEXT = "<|endoftext|>"
IMAGE = "<|image|>"
VIDEO = "<|video|>"
BEGIN_OF_IMAGE = "<|begin_of_image|>"
END_OF_IMAGE = "<|end_of_image|>"
BEGIN_OF_VIDEO = "<|begin_of_video|>"
END_OF_VIDEO = "<|end_of_video|>"
END_OF_ANSWER = "</answer>"

SPECIAL_TOKENS = (
    END_OF_TEXT,
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    BEGIN_OF_IMAGE,
    END_OF_IMAGE,
    BEGIN_OF_VIDEO,
    END_OF_VIDEO,
    IMAGE,
    VIDEO,
)
"""Control tokens: part of the prompt's frame, never shown in an answer."""

TAG_TOKENS = ("<think>", "</think>", "<answer>", END_OF_ANSWER)
"""Tokens that are also text: clients see them and send them back as history."""

ACTION_TOKENS = (
    'do(action="Tap", element=[',
    'do(action="Swipe", start=[',
    "], end=[",
    'do(action="Type", text="',
    'finish(message="',
)
"""The frames of the actions that AutoGLM-Tiny is trained on. One token each: a tap then has ten tokens instead of eighteen."""

END_TOKENS = (END_OF_TEXT, "<|user|>", "<|observation|>", END_OF_ANSWER)
"""Any of these ends an answer, as the four end-of-sequence ids of the real model do."""

VOCABULARY_SIZE = 4032

_ACTIONS = (
    'do(action="Tap", element=[{x},{y}])',
    'do(action="Double Tap", element=[{x},{y}])',
    'do(action="Long Press", element=[{x},{y}])',
    'do(action="Swipe", start=[{x},{y}], end=[{y},{x}])',
    'do(action="Type", text="hello")',
    'do(action="Type", text="你好")',
    'do(action="Type_Name", text="张三")',
    'do(action="Launch", app="Settings")',
    'do(action="Launch", app="微信")',
    'do(action="Wait", duration="3 seconds")',
    'do(action="Back")',
    'do(action="Home")',
    'do(action="Interact")',
    'do(action="Note", message="True")',
    'do(action="Call_API", instruction="summarise")',
    'do(action="Take_over", message="please sign in")',
    'finish(message="done")',
    'finish(message="任务完成")',
)

_ENGLISH = """
You are an agent that operates a phone. Look at the screenshot and the history, then choose one action at a time until the
task is done. The coordinates go from 0 to 999: the upper left corner is (0,0) and the lower right corner is (999,999).
First think step by step inside the think tag, then give exactly one action inside the answer tag.
Tap presses a point of the screen. Type writes text into the field that has the focus. Swipe drags from a start point to an
end point, for example to scroll a list or to unlock the screen. Long Press holds a point. Double Tap opens or zooms.
Launch opens an app faster than going through the home screen. Back goes to the previous page and Home to the home screen.
Wait for the page to load. Take over asks the user for help with a login, a password, a verification code or a captcha.
Before any action, check that the current app is the right one; if not, run Launch. If the page does not load, wait at most
three times, then go back. If the search finds nothing, try another keyword. Close a pop-up before you go on.
Today's date is Monday, January 1. The current screen shows the settings page with a search bar, a button, an icon, a menu,
a switch, a message, a contact, a picture, a video, a price, a shopping cart, an order, an address, a map and a calendar.
** Screen Info **
{"current_app": "Settings"} {"current_app": "System Home"} {"current_app": "Messages"} {"current_app": "Camera"}
<think>The user wants to open the settings. I see the icon in the middle of the screen, so I tap it.</think>
<think>The field is focused, so I type the name. Then I press the search button and wait for the result.</think>
"""

_CHINESE = """
你是一个智能手机操作助手，可以根据屏幕截图和操作历史执行一系列操作来完成任务。坐标从左上角(0,0)到右下角(999,999)。
请先在思考标签里一步一步地思考，然后在回答标签里给出一个具体的操作指令。今天的日期是2026年1月1日星期四。
点击屏幕上的一个点。输入文本到当前聚焦的输入框。滑动可以滚动列表或者解锁屏幕。长按一个点。双击可以打开或者放大。
启动应用比从主屏幕进入更快。返回上一个页面。回到主屏幕。等待页面加载。接管操作请求用户帮助登录、密码、验证码或者验证。
在执行任何操作前，先检查当前应用是不是目标应用，如果不是，先执行启动。如果页面没有加载出来，最多等待三次，否则返回重新进入。
如果搜索没有结果，可以换一个关键词再试。先关闭弹窗再继续。当前屏幕显示设置页面，有搜索框、按钮、图标、菜单、开关、消息、联系人、
图片、视频、价格、购物车、订单、地址、地图和日历。用户想打开微信给张三发送消息。我看到图标在屏幕中间，所以点击它。任务完成。
打开蓝牙，打开无线网络，拍照，打电话，发短信，设置闹钟，查看天气，播放音乐，搜索附近的餐厅，把商品加入购物车，提交订单。
"""


# Phrases come without what stands around them, so that no token reaches over the edge of a text that a screen shows.
_PHRASE_COUNT = 3
_FRAME_COUNT = 20


def training_text() -> list[str]:
    """The lines for the tokenizer: prompts and answers in both languages, coordinates, and what screens say."""
    points = [(step * 37 % 1000, step * 91 % 1000) for step in range(1, 28)]
    answers = [line.format(x=x, y=y) for line in _ACTIONS for x, y in points]
    return (_ENGLISH + _CHINESE).splitlines() + answers + _phrases() + _frames()


def _phrases() -> list[str]:
    found: list[str] = []
    for english, chinese in (pair for topic in words.ALL for pair in topic):
        found += [chinese, f" {english}", f" {english.lower()}"] * _PHRASE_COUNT + [english]
    return found


def _frames() -> list[str]:
    """The instructions of tasks, cut where the names of elements stand."""
    parts = [part for frame in instruction_frames() for part in _BLANK.split(frame)]
    return parts * _FRAME_COUNT


_BLANK = re.compile(r"\{\w*\}")
